#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What the tests of several servers of one owner need of a Debian machine: PostgreSQL's server and HAProxy. What is missing
# is taken from the machine's own package source and unpacked into build/replicas, so nothing is installed or started, and
# nobody has to be root. Usage: tools/install-replicas.sh
set -eu
cd "$(dirname "$0")/.."
into=build/replicas

there() { # whether one of these files is there
    for file in "$@"; do
        [ ! -x "$file" ] || return 0
    done
    return 1
}

missing=''
there /usr/lib/postgresql/*/bin/initdb "$into"/usr/lib/postgresql/*/bin/initdb || missing="$missing postgresql"
there /usr/sbin/haproxy /usr/bin/haproxy /usr/local/sbin/haproxy "$into"/usr/sbin/haproxy || missing="$missing haproxy"
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "install$missing with this system's package manager" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    apt-get update -qq
fi
# shellcheck disable=SC2086  # they are several packages
names=$(apt-get install --simulate --no-install-recommends $missing | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
mkdir -p "$into/packages"
cd "$into/packages"
# shellcheck disable=SC2086
apt-get download -qq $names 2>/dev/null
for package in *.deb; do
    dpkg --extract "$package" ..
    rm "$package"
done
