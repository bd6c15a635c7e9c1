#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds an image of your app on a clf_client image; the same as `clf image build app`.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=docker/common.sh
. "$here/common.sh"

usage() {
    cat <<TEXT
usage: build_clf_client_app_docker_image.sh [base_image] [image_tag] [OPTION...]

  base_image          a clf-client image, or the os_version it was built on; default: $(default_tag clf-client $DEFAULT_BASE)
  image_tag           default: as the base image, with clf-client-app for clf-client
  --app DIR           the app's folder, with its clf.toml; default: docker/app
  --base-image IMAGE  another base, which you mean
  --engine NAME       docker, podman or buildah; default: the first that works
  --dry-run           print what would be done
  -- OPTION...        further options of clf image build

Example: build_clf_client_app_docker_image.sh clf-client:gramine1.3-ubuntu22.04 --app ./trainer
Exit codes: 0 done, 1 failed, 2 wrong usage.
TEXT
}

app=$here/app meant='' dry_run='' engine='' positional=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit 0 ;;
        --app) app=$(value "$@") || exit 2; shift ;;
        --base-image) meant=$(value "$@") || exit 2; shift ;;
        --engine) engine=$(value "$@") || exit 2; shift ;;
        --dry-run) dry_run=1 ;;
        --) shift && break ;;
        -*) wrong "unknown option: $1" ;;
        *) positional+=("$1") ;;
    esac
    shift
done
if [ -n "$meant" ]; then positional=("$meant" "${positional[@]}"); fi
if [ ${#positional[@]} -gt 2 ]; then wrong "too many arguments: ${positional[2]}"; fi
base=${positional[0]:-$DEFAULT_BASE}
known=$(known_base "$base")
if [ -n "$known" ]; then base=$(default_tag clf-client "$known"); fi
is_image "$base" || wrong "base_image: '$base' is not the name of an image"
if [ -z "$meant" ] && [[ ! $base =~ ^clf-client: ]]; then
    wrong "base_image: '$base' is neither a clf-client image nor one of ${BASES[*]}; --base-image $base, if another is meant"
fi
if [[ $base =~ ^clf-client: ]]; then tag=clf-client-app:${base#clf-client:}; else tag=$(default_tag clf-client-app "$base"); fi
tag=${positional[1]:-$tag}
is_image "$tag" || wrong "image_tag: '$tag' is not the name of an image"
clf_image_build "$dry_run" "$engine" app --client "$base" "$tag" --app "$app" "$@"
