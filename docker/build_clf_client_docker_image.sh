#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the clf_client image, as the guide for CCP says; the same as `clf image build client`.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=docker/common.sh
. "$here/common.sh"

usage() {
    cat <<TEXT
usage: build_clf_client_docker_image.sh [os_version] [image_tag] [OPTION...]

  os_version          one of ${BASES[*]}; default: $DEFAULT_BASE
  image_tag           default: $(default_tag clf-client $DEFAULT_BASE), with the base of the image
  --base-image IMAGE  another base, which you mean
  --engine NAME       docker, podman or buildah; default: the first that works
  --dry-run           print what would be done
  -- OPTION...        further options of clf image build

Example: build_clf_client_docker_image.sh ubuntu:22.04 clf-client:mine
Exit codes: 0 done, 1 failed, 2 wrong usage.
TEXT
}

build_on_ubuntu client "$@"
