#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The steps of the Dockerfiles beside it: sh steps.sh STEP. They run in a build as root, on Debian or Ubuntu, and leave
# nothing behind that differs from build to build. What they are given from outside (pip's configuration, a CA bundle) is
# a secret mount: there while the step runs, in no layer.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
secrets=/run/secrets
work=/tmp/clf-build
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

die() { echo "error: $*" >&2; exit 1; }

# What builds write down of themselves: times, lists that the next build fetches anew.
tidy() {
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/log/apt \
        /var/log/*.log /var/lib/dpkg/*-old /etc/*- /root/.cache "$work"
}

install() {
    apt-get update -qq
    apt-get install -qq --yes --no-install-recommends "$@" >/dev/null
}

# The base's own Python where it is 3.11 or later.
base_python() {
    apt-get update -qq
    dpkg --compare-versions "$(apt-cache policy python3 | sed -n 's/^ *Candidate: //p')" ge 3.11
}

# Stage python: /opt/python, built from its source where the base's is too old; else empty. With the packages that it
# needs at run time in /opt/python/packages.
build_python() {
    version=$1 digest=$2 source=$3
    mkdir -p /opt/python
    if base_python; then
        echo python3 >/opt/python/packages
        tidy
        return
    fi
    install build-essential ca-certificates curl libbz2-dev libffi-dev liblzma-dev libsqlite3-dev libssl-dev xz-utils zlib1g-dev
    mkdir -p "$work" && cd "$work"
    if [ -e "$secrets/python-source" ]; then
        cp "$secrets/python-source" python.tar.xz
    else
        if [ -e "$secrets/ca-bundle" ]; then export CURL_CA_BUNDLE=$secrets/ca-bundle; fi
        curl --fail --silent --show-error --location --output python.tar.xz "$source/$version/Python-$version.tar.xz"
    fi
    echo "$digest  python.tar.xz" | sha256sum --check --quiet || die "the source of Python is not the pinned one"
    tar -xJf python.tar.xz --strip-components=1
    ./configure --quiet --prefix=/opt/python --with-ensurepip=install --without-static-libpython >/dev/null
    make --silent -j "$(nproc)" >/dev/null 2>&1
    make --silent install >/dev/null 2>&1
    cd /
    rm -rf /opt/python/lib/python3.*/test /opt/python/share
    find /opt/python -name '__pycache__' -type d -prune -exec rm -rf {} +
    # The packages whose libraries it was linked with.
    find /opt/python -type f -name '*.so' -exec ldd {} + | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u |
        while read -r library; do dpkg-query --search "$(readlink -f "$library")" "$library" 2>/dev/null || true; done |
        sed -n 's/:.*//p' | sort -u >/opt/python/packages
    tidy
}

# Stage clf: /opt/clf, an environment with CLF and what it stands on, by the lock file's hashes.
install_clf() {
    if [ -x /opt/python/bin/python3 ]; then
        python=/opt/python/bin/python3
    else
        install python3 python3-venv
        python=/usr/bin/python3
    fi
    if [ -e "$secrets/pip-config" ]; then export PIP_CONFIG_FILE=$secrets/pip-config; fi
    if [ -e "$secrets/ca-bundle" ]; then export PIP_CERT=$secrets/ca-bundle; fi
    export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
    mkdir -p "$work" && cp -r /source/. "$work"
    "$python" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet --require-hashes -r "$work/requirements/build.lock"
    (cd "$work" && "$work/venv/bin/python" -m hatchling build --target wheel >/dev/null 2>&1) || die "no wheel was built"
    "$python" -m venv --without-pip /opt/clf
    pip="$work/venv/bin/python -m pip --python /opt/clf/bin/python3 install --quiet --no-compile"
    $pip --require-hashes --only-binary :all: -r "$work/requirements/runtime.lock"
    $pip --no-deps --no-index "$work"/dist/*.whl
    # Compiled once, here: without times in it, and valid without a look at the source, which an enclave would measure.
    "$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/clf/lib
    tidy
}

# Stage sample: the Java sample's classes, with the client's beside them.
build_sample() {
    install openjdk-17-jdk-headless
    mkdir -p "$work" /sample
    find /source -name '*.java' >"$work/sources"
    javac --release 17 -d /sample @"$work/sources"
    for resources in /source/*/resources; do [ ! -d "$resources" ] || cp -r "$resources/." /sample; done
    cp /source/clf.toml /sample
    mkdir /sample/certs
    tidy
}

# The last step of a client or app image, once the app is there: its manifest, if the owners are known.
prepare() {
    app=$1 out=/clf/gramine
    mkdir -p "$out" /var/lib/clf/scratch
    cp "$here/start.sh" /usr/local/bin/clf-start
    chmod 0755 /usr/local/bin/clf-start
    if [ "${2-}" = sample ] && [ -z "$(ls "$app/certs")" ]; then
        echo "note: no owner's CA is in $app/certs, so this image has no manifest and starts nothing yet"
        return
    fi
    clf manifest "$app" --out "$out"
}

# Java's own certificate store says when each certificate was put into it, which is when the image was built. The same
# certificates in PKCS #12, the JDK's other form, which has no times. Its usual password is not a secret.
undate_certificates() {
    store=/etc/ssl/certs/java/cacerts
    [ -e "$store" ] || return 0
    mkdir -p "$work"
    keytool -importkeystore -noprompt -srckeystore "$store" -srcstorepass changeit \
        -destkeystore "$work/cacerts" -deststoretype PKCS12 -deststorepass changeit \
        -J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE -J-Dkeystore.pkcs12.macAlgorithm=NONE >/dev/null 2>&1 ||
        die "Java's certificate store cannot be rewritten"
    cat "$work/cacerts" >"$store"
}

# The last stage of every image: what Python needs to run, a user of our own, PATH.
runtime() {
    packages=$(cat /opt/python/packages)
    # shellcheck disable=SC2086  # they are several packages
    install ca-certificates $packages "$@"
    undate_certificates
    ln -s /opt/clf/bin/clf /usr/local/bin/clf
    groupadd --gid 10001 clf
    useradd --uid 10001 --gid clf --home-dir /nonexistent --shell /usr/sbin/nologin clf
    tidy
    rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid-
}

# Gramine from the makers' own repositories: keys that you have checked and put into docker/keys, a pinned version.
install_gramine() {
    version=$1 gramine=$2 intel=$3
    keys=$here/keys
    { [ -e "$keys/gramine.gpg" ] && [ -e "$keys/intel-sgx.asc" ] && [ -e "$keys/SHA256SUMS" ]; } ||
        die "docker/keys lacks the keys of Gramine's and Intel's repositories; docker/keys/README.md says how to get and" \
            "check them. Without Gramine: --without-gramine, or --build-arg WITH_GRAMINE=0"
    (cd "$keys" && sha256sum --check --quiet --strict SHA256SUMS) || die "a key in docker/keys is not the one in SHA256SUMS"
    [ "$(cut -c67- "$keys/SHA256SUMS" | sort | tr '\n' ' ')" = "gramine.gpg intel-sgx.asc " ] ||
        die "docker/keys/SHA256SUMS must list gramine.gpg and intel-sgx.asc"
    # shellcheck disable=SC1091  # it is the image's
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    install ca-certificates
    mkdir -p /etc/apt/keyrings
    cp "$keys/gramine.gpg" "$keys/intel-sgx.asc" /etc/apt/keyrings/
    echo "deb [arch=amd64 signed-by=/etc/apt/keyrings/gramine.gpg] $gramine $codename main" >/etc/apt/sources.list.d/gramine.list
    echo "deb [arch=amd64 signed-by=/etc/apt/keyrings/intel-sgx.asc] $intel $codename main" >/etc/apt/sources.list.d/intel-sgx.list
    install "gramine=$version*" || die "Gramine $version is not to be had for $codename: $(apt-cache policy gramine)"
    # What is installed stays; where it came from need not be asked again.
    rm /etc/apt/sources.list.d/gramine.list /etc/apt/sources.list.d/intel-sgx.list
    tidy
}

step=$1
shift
case $step in
    build_python | install_clf | build_sample | runtime | install_gramine | prepare) "$step" "$@" ;;
    *) echo "usage: steps.sh build_python|install_clf|build_sample|runtime|install_gramine|prepare" >&2; exit 2 ;;
esac
