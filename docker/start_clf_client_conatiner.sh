#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The first CLF's guide spells it so.
exec "$(dirname -- "${BASH_SOURCE[0]}")/start_clf_client_container.sh" "$@"
