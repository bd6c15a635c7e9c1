#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What the benchmarks compare with: nginx, curl and openssl (Debian, Ubuntu). nginx is unpacked into build/nginx from the
# distribution's package and not installed: an installed one would start a web server on this machine.
# Usage: benchmarks/install.sh
set -eu
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

missing=""
for tool in curl openssl taskset; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
needs_nginx() {
    ! command -v nginx >/dev/null && ! build/nginx/usr/sbin/nginx -v 2>/dev/null
}

if [ -z "$missing" ] && ! needs_nginx; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "install nginx$missing with this system's package manager" >&2
    exit 1
fi
as_root apt-get update -qq
if [ -n "$missing" ]; then
    as_root apt-get install -qq --yes --no-install-recommends curl openssl util-linux
fi
if needs_nginx; then
    mkdir -p build/nginx
    (cd build/nginx && apt-get -o APT::Sandbox::User="$(id -un)" download -qq nginx && dpkg-deb -x nginx_*.deb .)
    # Its libraries (libcrypt, libpcre2, libssl, zlib) are there wherever curl is, except on the smallest images.
    build/nginx/usr/sbin/nginx -v 2>/dev/null ||
        as_root apt-get install -qq --yes --no-install-recommends libpcre2-8-0 libssl3 zlib1g libcrypt1
    build/nginx/usr/sbin/nginx -v
fi
