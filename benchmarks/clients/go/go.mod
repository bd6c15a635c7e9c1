module example.com/benchmark

go 1.25

require github.com/cross-language-framework/clf-go v0.0.0

replace github.com/cross-language-framework/clf-go => ../../../sdk/go
