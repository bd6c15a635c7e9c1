#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the two commands that pack the clf_client image for CCP and run it. The same as `clf ccp client`, whose options it takes.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
code=0
"$here/../tools/clf.sh" ccp client "$@" || code=$?
if [ "$code" = 2 ]; then echo "usage: ${BASH_SOURCE[0]##*/} [OPTIONS] [-- ARGUMENT...]; --help describes each" >&2; fi
exit "$code"
