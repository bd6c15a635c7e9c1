#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a client or app image starts: the signed app in its enclave. `clf ...` as the arguments runs the command line
# instead, to measure or to try the app on the simulated platform; `sigstruct` prints what a signature says.
set -eu

folder=/clf/gramine
if [ "${1-}" = clf ]; then exec "$@"; fi

# What owners pin. MRENCLAVE does not depend on who signs: a key made for this moment, in memory, gives the same.
if [ "${1-}" = sigstruct ]; then
    signature=$folder/app.sig
    if [ ! -e "$signature" ]; then
        work=$(mktemp -d /dev/shm/clf.XXXXXX)
        trap 'rm -rf "$work"' EXIT
        signature=$work/app.sig
        gramine-sgx-gen-private-key "$work/key" >/dev/null
        gramine-sgx-sign --quiet --key "$work/key" --manifest "$folder/app.manifest" \
            --output "$work/app.manifest.sgx" --sigfile "$signature" >&2
    fi
    gramine-sgx-sigstruct-view --output-format json "$signature"
    exit
fi

if [ ! -e "$folder/app.manifest" ]; then
    echo "error: this image has no app with owners yet: build it with yours, clf image build client --app DIR" >&2
    exit 3
fi
# An enclave takes its arguments from the manifest. Those of the command line may be the same, so that a command that
# names them still works, and are refused if they are others, instead of being left out in silence.
if [ $# -gt 0 ] && ! printf '%s\n' "$@" | cmp -s - "$folder/app.arguments"; then
    echo "error: the arguments are measured, and are: $(tr '\n' ' ' <"$folder/app.arguments")" >&2
    echo "  remedy: leave them out, or change app.command in clf.toml, build and sign again" >&2
    exit 2
fi
if [ ! -e "$folder/app.manifest.sgx" ]; then
    echo "error: this image is not signed: clf image sign IMAGE --key KEY" >&2
    exit 3
fi
if [ ! -e /dev/sgx_enclave ]; then
    echo "error: there is no /dev/sgx_enclave: start with --device /dev/sgx_enclave, on a machine with SGX" >&2
    exit 1
fi
# Where the enclave leaves encrypted files: empty at each start, but for what it keeps (scratch).
while IFS= read -r place; do
    case $place in */data/*) rm -rf "$place" ;; esac
    mkdir -p "$place"
done <"$folder/app.folders"
exec gramine-sgx "$folder/app"
