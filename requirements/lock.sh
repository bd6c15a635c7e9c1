#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the lock files: exact versions and hashes for Python 3.11 and later on Linux, and the name of no host.
# Usage: requirements/lock.sh UV [further options of uv pip compile, like --upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$1
shift

compile() { # lock file, then what it holds
    local out=requirements/$1.lock
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
        --custom-compile-command "make lock" --output-file "$out" "$@"
    if grep -nE '://|--(find-links|index-url|extra-index-url|trusted-host)|@ ?file' "$out"; then
        echo "$out names a host or a place: a lock file holds names, versions and hashes only" >&2
        exit 1
    fi
}

# The largest first: the others hold the same versions, so that all fit into one environment.
compile dev pyproject.toml --extra demo --extra data --extra postgresql --extra s3 --group dev "$@"
compile demo pyproject.toml --extra demo --group build --constraints requirements/dev.lock "$@"
compile examples pyproject.toml --extra data --group build --group examples --constraints requirements/dev.lock "$@"
compile runtime pyproject.toml --constraints requirements/dev.lock "$@"
compile build --group build --constraints requirements/dev.lock "$@"
compile fuzz --group fuzz --constraints requirements/dev.lock "$@"
compile tools --group lock "$@"
