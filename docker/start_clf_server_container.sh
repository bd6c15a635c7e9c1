#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Starts an owner's server from a clf_server image. It gets the owner's folder, port 4433 and the PCCS's address, and
# nothing else of this machine. A server verifies quotes and makes none, so it needs no SGX; --sgx is for a packed one.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=docker/common.sh
. "$here/common.sh"

usage() {
    cat <<TEXT
usage: start_clf_server_container.sh [pccs_ip] [image_tag] [OPTION...]

  pccs_ip        the address of pccs.service.com, if clf_server.toml names that; default: 127.0.0.1, this machine
  image_tag      default: $(default_tag clf-server $DEFAULT_BASE)
  --owner DIR    the owner's folder, made by clf server init or clf server import-conf; default: the current folder
  --port PORT    the port of this machine; default: 4433
  --detach       in the background, and again whenever it or the machine was restarted
  --sgx          with the SGX devices and the AESM socket
  --engine NAME  docker, podman or buildah; default: the first that works
  --dry-run      print what would be done

Example: start_clf_server_container.sh 192.0.2.9 --owner /srv/hospital
Exit codes: those of the server, 1 failed, 2 wrong usage.
TEXT
}

dry_run='' engine='' sgx='' detached='' owner=$PWD port=4433 positional=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit 0 ;;
        --owner) owner=$(value "$@") || exit 2; shift ;;
        --port) port=$(value "$@") || exit 2; shift ;;
        --engine) engine=$(value "$@") || exit 2; shift ;;
        --sgx) sgx=1 ;;
        --detach) detached=1 ;;
        --dry-run) dry_run=1 ;;
        -*) wrong "unknown option: $1" ;;
        *) positional+=("$1") ;;
    esac
    shift
done
if [ ${#positional[@]} -gt 2 ]; then wrong "too many arguments: ${positional[2]}"; fi
pccs=${positional[0]:-127.0.0.1}
image=${positional[1]:-$(default_tag clf-server $DEFAULT_BASE)}
is_address "$pccs" || wrong "pccs_ip: '$pccs' is not an address"
is_image "$image" || wrong "image_tag: '$image' is not the name of an image"
if [[ ! $port =~ ^[1-9][0-9]{0,4}$ ]] || [ "$port" -gt 65535 ]; then wrong "--port: '$port' is not a port"; fi
case $owner in *[:,]* | / | /home | /home/) wrong "--owner: '$owner' is not an owner's folder" ;; esac
if [ -z "$dry_run" ] && [ ! -f "$owner/clf_server.toml" ]; then
    failed "there is no clf_server.toml in $owner" "clf server init $owner, or --owner DIR"
fi
if [ -d "$owner" ]; then owner=$(cd -- "$owner" && pwd); fi

options=(-p "$port:4433" "--add-host=pccs.service.com:$(reachable "$pccs")" -v "$owner:$OWNER_FOLDER")
# As the folder's own user: its files stay readable for nobody else.
if [ -d "$owner" ]; then options+=(--user "$(stat -c %u:%g "$owner")"); fi
if [ -n "$sgx" ]; then
    options+=(--device=/dev/sgx_enclave --device=/dev/sgx_provision)
    options+=(-v /var/run/aesmd/aesm.socket:/var/run/aesmd/aesm.socket)
fi
start_container "$engine" "$dry_run" "$detached" "$image" "${options[@]}"
