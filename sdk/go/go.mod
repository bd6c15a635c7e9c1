module github.com/cross-language-framework/clf-go

go 1.25
