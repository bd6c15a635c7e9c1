#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the certificate authority of an owner (-r) and the certificate of its server (-c), without a question asked.
# Needs openssl 1.1.1 or later and nothing else. `clf server init` makes the same by itself; this is for those who keep
# certificates apart, under the names of the first CLF.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: gen_cert.sh [-r] [-c] [--host NAME]... [--out DIR] [--force]

  -r           a root: DIR/ca_cert.crt, which apps pin, and DIR/ca_private_key.pem, which stays with the owner
  -c           a child, signed by that root: DIR/server_signed_cert.crt and DIR/server_private_key.pem
  --host NAME  a name or address of the server, repeatable; default: localhost, 127.0.0.1, ::1 and this machine's name
  --out DIR    where the files go; default: certs
  --force      replace files that are there; apps that pin a replaced root refuse the server

P-256; the root ends after 3650 days, a child after 365. Private keys get mode 600.
Example: gen_cert.sh -r -c --host hospital.example --host 192.0.2.7
Exit codes: 0 done, 1 failed, 2 wrong usage.
TEXT
}

wrong() {
    echo "error: $1" >&2
    usage >&2
    exit 2
}

failed() {
    echo "error: $1" >&2
    exit 1
}

root='' child='' force='' out=certs hosts=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit 0 ;;
        -r) root=1 ;;
        -c) child=1 ;;
        -rc | -cr) root=1 child=1 ;;
        --force) force=1 ;;
        --host | --out)
            if [ $# -lt 2 ] || [ -z "$2" ]; then wrong "$1 needs a value"; fi
            if [ "$1" = --host ]; then hosts+=("$2"); else out=$2; fi
            shift
            ;;
        *) wrong "unknown argument: $1" ;;
    esac
    shift
done
[ -n "$root$child" ] || wrong "say what to make: -r, -c or both"
[ ${#hosts[@]} -eq 0 ] || [ -n "$child" ] || wrong "--host goes with -c: a root names no host"
command -v openssl >/dev/null || failed "there is no openssl; remedy: apt-get install openssl"

# How a certificate names a host; fails for what is none.
kind_of() {
    local octet='(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])' label='[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
    if [[ $1 =~ ^($octet\.){3}$octet$ ]] || [[ $1 =~ ^[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*$ ]]; then
        echo IP
    elif [ ${#1} -le 253 ] && [[ $1 =~ ^($label\.)*[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$ ]]; then
        echo DNS
    else
        return 1
    fi
}

if [ ${#hosts[@]} -eq 0 ]; then
    hosts=(localhost 127.0.0.1 ::1)
    machine=$(uname -n)
    if kind_of "$machine" >/dev/null; then hosts+=("$machine"); fi
fi
names=''
for host in "${hosts[@]}"; do
    kind=$(kind_of "$host") || wrong "--host: '$host' is neither a DNS name nor an IP address"
    names+=",$kind:$host"
done
first=${hosts[0]:0:64} # a common name has no room for more; readers look at the alternative names
names=${names#,}

umask 077
mkdir -p -- "$out"
out=$(cd -- "$out" && pwd)
work=$(mktemp -d "$out/.gen_cert.XXXXXX")
trap 'rm -rf -- "$work"' EXIT

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

absent() {
    local file
    for file in "$@"; do
        [ -n "$force" ] || [ ! -e "$out/$file" ] || failed "$out/$file exists; remedy: --force replaces it, --out DIR"
    done
}

# Under its name a file appears whole, and never over another that appeared meanwhile.
publish() {
    local file
    for file in "$@"; do
        if [ -n "$force" ]; then
            mv -f -- "$work/$file" "$out/$file"
        else
            # A link fails where there is a file; some file systems have none, and there the check must do.
            ln -- "$work/$file" "$out/$file" 2>/dev/null || { absent "$file" && mv -- "$work/$file" "$out/$file"; }
        fi
        echo "made $out/$file"
    done
}

extensions() { # what both kinds have, then the certificate's own
    printf '[ext]\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always\n%s\n' "$1"
}

[ -z "$root" ] || absent ca_cert.crt ca_private_key.pem
[ -z "$child" ] || absent server_signed_cert.crt server_private_key.pem

if [ -n "$root" ]; then
    new_key "$work/ca_private_key.pem"
    {
        printf '[req]\ndistinguished_name=dn\nprompt=no\nx509_extensions=ext\n[dn]\nCN=CLF owner %s\n' "$(openssl rand -hex 8)"
        extensions $'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign'
    } >"$work/root.cnf"
    openssl req -x509 -new -sha256 -days 3650 -key "$work/ca_private_key.pem" -config "$work/root.cnf" \
        -out "$work/ca_cert.crt"
    chmod 644 "$work/ca_cert.crt"
    publish ca_private_key.pem ca_cert.crt
fi

if [ -n "$child" ]; then
    for file in ca_cert.crt ca_private_key.pem; do
        [ -f "$out/$file" ] || failed "there is no $out/$file to sign with; remedy: gen_cert.sh -r --out $out"
    done
    new_key "$work/server_private_key.pem"
    printf '[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=%s\n' "$first" >"$work/child.cnf"
    extensions "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=$names" >"$work/child.ext"
    openssl req -new -sha256 -key "$work/server_private_key.pem" -config "$work/child.cnf" -out "$work/child.csr"
    openssl x509 -req -sha256 -days 365 -in "$work/child.csr" -CA "$out/ca_cert.crt" -CAkey "$out/ca_private_key.pem" \
        -set_serial "0x00$(openssl rand -hex 16)" -extfile "$work/child.ext" -extensions ext \
        -out "$work/server_signed_cert.crt" 2>"$work/said" || { cat "$work/said" >&2; failed "openssl did not sign"; }
    chmod 644 "$work/server_signed_cert.crt"
    publish server_private_key.pem server_signed_cert.crt
    echo "for     ${hosts[*]}"
    echo "next    an app's clf.toml names $out/ca_cert.crt; a server takes the other two in [server.tls], or by clf server import-conf"
fi
