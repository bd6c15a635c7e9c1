#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What `make sdk-go` runs: format, vet, build, tests with the race detector where a C compiler is there.
set -eu
cd -- "$(dirname -- "$0")"
export GOFLAGS=-buildvcs=false
unformatted=$(gofmt -l . ../../examples/go ../../benchmarks/clients/go)
[ -z "$unformatted" ] || { echo "not gofmt's format: $unformatted" >&2; exit 1; }
race=
if [ "$(go env CGO_ENABLED)" = 1 ] && command -v cc >/dev/null; then race=-race; fi
go vet ./...
go test $race -count=1 ./...
for program in examples/go benchmarks/clients/go; do (cd "../../$program" && go vet ./...); done
