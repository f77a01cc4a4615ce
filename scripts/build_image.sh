#!/bin/sh
# Builds the container image: sh scripts/build_image.sh [cpu|cuda] [OPTION...]
#
# It takes docker, podman or buildah, whichever works first; CONTAINERS="podman --root DIR" names another one. OPTIONs go
# to its build command: --build-arg BASE=IMAGE, --network host.
set -eu
cd "$(dirname "$0")/.."
target=${1:-cpu}
[ $# -eq 0 ] || shift
if [ -z "${CONTAINERS:-}" ]; then
    for each in docker podman buildah; do
        if $each info >/dev/null 2>&1; then
            CONTAINERS=$each
            break
        fi
    done
fi
case ${CONTAINERS:-} in
    '') echo "none of docker, podman and buildah works here. Install one, or name it: CONTAINERS=..." >&2; exit 1 ;;
    docker*) format= ;;
    *) format='--format docker' ;;  # the OCI format has no health check
esac
# shellcheck disable=SC2086 # words on purpose
$CONTAINERS build $format --target "$target" --tag "gnomon:$target" "$@" .

$CONTAINERS images "gnomon:$target"
