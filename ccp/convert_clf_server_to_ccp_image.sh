#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the two commands that pack the clf_server image for CCP and run it. The same as `clf ccp server`, whose options it takes.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
code=0
"$here/../tools/clf.sh" ccp server "$@" || code=$?
if [ "$code" = 2 ]; then echo "usage: ${BASH_SOURCE[0]##*/} [OPTIONS] [-- ARGUMENT...]; --help describes each" >&2; fi
exit "$code"
