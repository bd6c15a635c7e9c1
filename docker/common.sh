# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scripts in this folder share; each of them reads it. `usage` is theirs.

BASES=(ubuntu:18.04 ubuntu:20.04 ubuntu:22.04 ubuntu:24.04) # tests/deploy/test_docker_scripts.py: those of clf.deploy.images
DEFAULT_BASE=ubuntu:20.04
# shellcheck disable=SC2034 # for the scripts that start containers
OWNER_FOLDER=/clf/cczoo/cross_lang_framework/clf_server

wrong() {
    echo "error: $1" >&2
    usage >&2
    exit 2
}

failed() {
    echo "error: $1" >&2
    if [ $# -gt 1 ]; then echo "  remedy: $2" >&2; fi
    exit 1
}

# The value of option $1, which is $2 if there is one.
value() {
    if [ $# -lt 2 ] || [ -z "$2" ]; then wrong "$1 needs a value"; fi
    printf '%s\n' "$2"
}

is_image() { [[ $1 =~ ^[a-z0-9]+([._/:-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$ ]]; }

# A base as the guide writes it, ubuntu20.04 included; empty for another.
known_base() {
    local base=$1 known
    [[ $base =~ ^ubuntu[0-9] ]] && base=ubuntu:${base#ubuntu}
    for known in "${BASES[@]}"; do
        if [ "$base" = "$known" ]; then echo "$base"; fi
    done
}

# The guide's tag: clf-client:gramine1.3-ubuntu20.04. The name says nothing of the Gramine inside, the labels do.
default_tag() { # clf-client, ubuntu:20.04
    local suffix=$2
    if [ -n "$(known_base "$2")" ]; then suffix=${2/:/}; fi
    printf '%s:gramine1.3-%s\n' "$1" "$(printf %s "$suffix" | tr -c 'A-Za-z0-9_.' -)"
}

is_host() { [ ${#1} -le 253 ] && [[ $1 =~ ^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$ ]]; }

is_address() {
    local octet='(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'
    [[ $1 =~ ^($octet\.){3}$octet$ ]] || [[ $1 =~ ^[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*$ ]]
}

# In a container 127.0.0.1 is the container; whoever gives it means this machine.
reachable() { case $1 in 127.* | ::1) echo host-gateway ;; *) echo "$1" ;; esac; }

# The engine: $1 if given, else the first that is there and works.
find_engine() {
    local name
    for name in ${1:-docker podman buildah}; do
        if command -v "$name" >/dev/null && { [ "$name" = buildah ] || "$name" info >/dev/null 2>&1; }; then
            echo "$name"
            return
        fi
    done
    failed "no container engine that works: ${1:-docker, podman, buildah}" "install one and start it; --dry-run prints the command"
}

# The command to be pasted into a shell.
print_command() {
    local word
    for word in "$@"; do printf '%q ' "$word"; done | sed 's/ $//'
    echo
}

# Start a container of an image, on an engine that is found: in the foreground and removed at its end, or detached, and
# then started again whenever it or the machine was.
start_container() { # engine or empty, dry run or empty, detached or empty, image, options...
    local engine=$1 dry_run=$2 detached=$3 image=$4
    shift 4
    local options=(--init --cap-drop=ALL --security-opt=no-new-privileges "$@")
    if [ -n "$detached" ]; then
        options=(-d --restart=unless-stopped "${options[@]}")
    elif [ -t 0 ] && [ -t 1 ]; then
        options=(-ti --rm "${options[@]}")
    else
        options=(--rm "${options[@]}")
    fi
    if [ -n "$dry_run" ]; then
        print_command "${engine:-docker}" run "${options[@]}" "$image"
        return
    fi
    engine=$(find_engine "$engine")
    # Without root, podman's container has user numbers of its own; the owner's folder must be this user's in there, too.
    if [ "$engine" = podman ] && [ "$(id -u)" -ne 0 ]; then options=(--userns=keep-id "${options[@]}"); fi
    if [ "$engine" = buildah ]; then
        [ -z "$detached" ] || failed "buildah starts nothing in the background" "docker or podman, or leave --detach out"
        start_with_buildah "$image" "$@"
    else
        exec "$engine" run "${options[@]}" "$image"
    fi
}

# buildah has no `run` for images: a container is made, its command run in it, and removed. Its chroot isolation uses the
# machine's own network, so that ports need no publishing.
start_with_buildah() {
    local image=$1 container code=0 kept=() user=() command
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            -p) shift ;;
            --user) user=(--user "$2") && shift ;;
            *) kept+=("${1/host-gateway/127.0.0.1}") ;;
        esac
        shift
    done
    container=$(buildah from --pull=false --isolation=chroot --cap-drop=ALL "${kept[@]}" "$image")
    # shellcheck disable=SC2064 # the name is known now
    trap "buildah rm '$container' >/dev/null" EXIT
    mapfile -t command < <(buildah inspect --format \
        '{{range .OCIv1.Config.Entrypoint}}{{println .}}{{end}}{{range .OCIv1.Config.Cmd}}{{println .}}{{end}}' "$container" |
        sed '/^$/d')
    buildah run --isolation=chroot "${user[@]}" "$container" -- "${command[@]}" || code=$?
    return "$code"
}

# Build an image with the options of `clf image build`; without Python 3.11 the engine builds alone, from the same Dockerfile.
# shellcheck disable=SC2154 # here: the folder of the script that reads this file
clf_image_build() { # dry run or empty, engine or empty, kind, --base, --base-image or --client, image, tag, further options...
    local dry_run=$1 engine=$2 kind=$3 option=$4 base=$5 tag=$6
    shift 6
    if [ -n "$dry_run" ]; then
        print_command clf image build "$kind" "$option" "$base" --tag "$tag" ${engine:+--engine "$engine"} "$@"
    elif [ $# -gt 0 ] || [ "$kind" = app ] || "$here/../tools/clf.sh" version >/dev/null 2>&1; then
        exec "$here/../tools/clf.sh" image build "$kind" "$option" "$base" --tag "$tag" ${engine:+--engine "$engine"} "$@"
    else
        engine=$(find_engine "$engine")
        echo "note: no Python 3.11 here, so $engine builds alone: nothing is measured and explained" >&2
        exec "$engine" build --build-arg "BASE_IMAGE=$base" -f "$here/clf_$kind.dockerfile" -t "$tag" "$here/.."
    fi
}

# The whole of build_clf_{client,server}_docker_image.sh: kind, then the user's arguments.
build_on_ubuntu() {
    local kind=$1 base='' meant='' tag='' dry_run='' engine='' positional=()
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage && exit 0 ;;
            --base-image) meant=$(value "$@") || exit 2; shift ;;
            --engine) engine=$(value "$@") || exit 2; shift ;;
            --dry-run) dry_run=1 ;;
            --) shift && break ;;
            -*) wrong "unknown option: $1" ;;
            *) positional+=("$1") ;;
        esac
        shift
    done
    if [ ${#positional[@]} -gt 2 ]; then wrong "too many arguments: ${positional[2]}"; fi
    if [ -n "$meant" ]; then
        is_image "$meant" || wrong "--base-image: '$meant' is not the name of an image"
        if [ ${#positional[@]} -gt 1 ]; then wrong "--base-image stands for os_version: give a tag only"; fi
        tag=${positional[0]-} base=$meant
    else
        base=$(known_base "${positional[0]:-$DEFAULT_BASE}")
        if [ -z "$base" ]; then
            wrong "os_version: '${positional[0]}' is not one of ${BASES[*]}; --base-image ${positional[0]:-IMAGE}, if another is meant"
        fi
        tag=${positional[1]-}
    fi
    tag=${tag:-$(default_tag "clf-$kind" "$base")}
    is_image "$tag" || wrong "image_tag: '$tag' is not the name of an image"
    case $base in
        ubuntu:18.04 | ubuntu:20.04) echo "note: standard support of $base has ended; ubuntu:24.04 gets corrections" >&2 ;;
    esac
    local option=--base
    if [ -n "$meant" ]; then option=--base-image; fi
    clf_image_build "$dry_run" "$engine" "$kind" "$option" "$base" "$tag" "$@"
}
