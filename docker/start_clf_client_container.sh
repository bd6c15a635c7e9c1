#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Starts the app of a clf_client image in its enclave. It gets the SGX devices, the AESM socket and the server's address,
# and nothing else of this machine: no capability, no new privilege, no folder.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=docker/common.sh
. "$here/common.sh"

usage() {
    cat <<TEXT
usage: start_clf_client_container.sh [ip] [server_name] [image_tag] [OPTION...]

  ip             the server's address; default: 127.0.0.1, this machine
  server_name    the server's name, as the app's clf.toml has it; default: this machine's name
  image_tag      default: $(default_tag clf-client $DEFAULT_BASE)
  --add-host NAME:ADDRESS
                 a further server, repeatable
  --simulation   without SGX, for a simulated app
  --engine NAME  docker, podman or buildah; default: the first that works
  --dry-run      print what would be done

Example: start_clf_client_container.sh 192.0.2.7 hospital.example
Exit codes: those of the app, 1 failed, 2 wrong usage.
TEXT
}

dry_run='' engine='' simulation='' hosts=() positional=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit 0 ;;
        --add-host) hosts+=("$(value "$@")") || exit 2; shift ;;
        --engine) engine=$(value "$@") || exit 2; shift ;;
        --simulation) simulation=1 ;;
        --dry-run) dry_run=1 ;;
        -*) wrong "unknown option: $1" ;;
        *) positional+=("$1") ;;
    esac
    shift
done
if [ ${#positional[@]} -gt 3 ]; then wrong "too many arguments: ${positional[3]}"; fi
ip=${positional[0]:-127.0.0.1}
name=${positional[1]:-$(uname -n)}
image=${positional[2]:-$(default_tag clf-client $DEFAULT_BASE)}
is_image "$image" || wrong "image_tag: '$image' is not the name of an image"

options=()
for host in "$name:$ip" "${hosts[@]}"; do
    is_host "${host%%:*}" || wrong "server_name: '${host%%:*}' is not the name of a host"
    is_address "${host#*:}" || wrong "ip: '${host#*:}' is not an address"
    options+=("--add-host=${host%%:*}:$(reachable "${host#*:}")")
done
if [ -z "$simulation" ]; then
    for device in /dev/sgx_enclave /dev/sgx_provision; do
        [ -n "$dry_run" ] || [ -e "$device" ] || failed "this machine has no $device" "--simulation, or see clf attest doctor"
        options+=("--device=$device")
    done
    if [ -n "$dry_run" ] || [ -S /var/run/aesmd/aesm.socket ]; then
        options+=(-v /var/run/aesmd/aesm.socket:/var/run/aesmd/aesm.socket)
    fi
fi
start_container "$engine" "$dry_run" '' "$image" "${options[@]}"
