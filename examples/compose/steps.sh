#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What compose.yaml does before anything serves: each owner makes its folder, the app learns whom to trust, each owner
# allows the app. Every step may be done again and then changes nothing. What passes between them lies in HANDOVER, and
# all of it is public: CAs, identities, the app's measurement.
set -eu

usage() {
    echo "usage: steps.sh owner NAME OWNER HANDOVER PLATFORM DATA LISTEN ADMIN PCCS | app APP SOURCE HANDOVER NAME=URL... | allow OWNER HANDOVER" >&2
    exit 2
}

owner() {
    name=$1 folder=$2 handover=$3 platform=$4 data=$5 listen=$6 admin=$7 pccs=$8
    if [ ! -e "$folder/clf_server.toml" ]; then
        clf server init "$folder" --trust simulation --simulation-root "$platform/root.pem" \
            --pccs "$pccs" --host 127.0.0.1 --listen "$listen" --admin "$admin"
        cp -R "$data/." "$folder/data"
    fi
    cp "$folder/keys/tls/ca.crt" "$handover/$name.crt"
    clf server check "$folder" --json | sed -n 's/^ *"identity": "\(.*\)",$/\1/p' >"$handover/$name.identity"
}

app() {
    folder=$1 source=$2 handover=$3
    shift 3
    mkdir -p "$folder/certs"
    cp "$source/app.py" "$folder"
    {
        printf '[app]\nname = "two-hospitals"\ncommand = ["python3", "app.py"]\nfiles = ["app.py"]\n'
        for pair in "$@"; do
            name=${pair%%=*}
            cp "$handover/$name.crt" "$folder/certs"
            printf '\n[owner.%s]\nurl = "%s"\nca = "certs/%s.crt"\nidentity = ["%s"]\n' \
                "$name" "${pair#*=}" "$name" "$(cat "$handover/$name.identity")"
        done
    } >"$folder/clf.toml"
    clf measure "$folder" >"$handover/mrenclave"
}

allow() {
    folder=$1 measured=$(cat "$2/mrenclave")
    if grep -q "$measured" "$folder/clf_server.toml"; then return; fi
    clf server allow two-hospitals --dir "$folder" --mrenclave "$measured" --platform any \
        --read 'patients/*.csv' --write report.json --max-runs 10 --max-bytes 1000000
}

case "${1-} $#" in
    'owner 9' | 'app 5' | 'app 6' | 'allow 3') "$@" ;;
    *) usage ;;
esac
