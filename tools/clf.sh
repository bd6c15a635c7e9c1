#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs `clf` of this checkout with the given arguments; the scripts in docker/, ccp/ and tools/ call it. It needs Python
# 3.11 or later with venv, and make: the first time, it makes .venv from the lock file, which takes a minute.
set -euo pipefail
checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$checkout/.venv

newer() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ ! -e "$venv/.runtime" ] && [ ! -x "$venv/bin/clf" ]; then
    # An installed clf will do, too: a wheel has no checkout's environment.
    if command -v clf >/dev/null; then exec clf "$@"; fi
    for python in "${PYTHON-python3}" python3.13 python3.12 python3.11 ''; do
        if [ -n "$python" ] && newer "$python"; then break; fi
    done
    if [ -z "$python" ] || ! command -v make >/dev/null; then
        {
            echo "error: this script needs Python 3.11 or later (with venv) and make; Ubuntu 18.04 to 22.04 bring an older one."
            echo "  remedy: install one and say which: PYTHON=/path/to/python3.12 $0 ..."
            echo "  or use the one in an image of ours: docker run --rm --entrypoint clf clf-server:gramine1.3-ubuntu20.04 $*"
        } >&2
        exit 1
    fi
    echo "making $venv from the lock file, once; this takes a minute" >&2
    make -C "$checkout" -s VENV="$venv" PYTHON="$python" "$venv/.runtime" >&2
fi
if [ -x "$venv/bin/clf" ]; then exec "$venv/bin/clf" "$@"; fi
PYTHONPATH=$checkout/src exec "$venv/bin/python" -m clf.cli.main "$@"
