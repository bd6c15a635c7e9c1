#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What the test suite needs of the machine beside make and Python: FUSE, for pseudo-files that behave as a kernel's do.
# Root mounts by itself and needs nothing; others need fusermount3, which is installed here (Debian, Ubuntu; with sudo).
# Usage: tools/install-test-deps.sh
set -eu

if [ ! -e /dev/fuse ]; then
    modprobe fuse 2>/dev/null || true
fi
if [ ! -e /dev/fuse ]; then
    echo "no /dev/fuse: load the module fuse, or start the container with --device /dev/fuse --cap-add SYS_ADMIN" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ] || command -v fusermount3 >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "install fuse3 (for fusermount3) with this system's package manager" >&2
    exit 1
fi
sudo apt-get update -qq
sudo apt-get install -qq --yes --no-install-recommends fuse3
