#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What `make images` needs of a Debian machine: buildah and debootstrap, gpg to sign a package repository of its own, and
# strace, with which the tests of manifests see what a runtime opens. From the machine's own package source.
# Usage: tools/install-image-tools.sh (as root)
set -eu
missing=''
for pair in buildah:buildah debootstrap:debootstrap gpg:gnupg strace:strace; do
    command -v "${pair%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "error: as root, install$missing" >&2
    exit 1
fi
apt-get update -qq
# shellcheck disable=SC2086  # they are several packages
DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends -o DPkg::Lock::Timeout=300 $missing >/dev/null
