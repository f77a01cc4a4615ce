#!/bin/sh
# Makes a base for the image where no registry can be reached, out of Debian's packages, as small as debian:trixie-slim:
# CONTAINERS=podman sh scripts/base_image.sh [TAG] [MIRROR]
#
# It needs root and debootstrap. Then: sh scripts/build_image.sh cpu --build-arg BASE=TAG
set -eu
tag=${1:-localhost/debian:trixie}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase trixie "$root" ${2:+"$2"}
chmod 755 "$root"  # mktemp made it for its owner alone, and the mode of / goes into the image
cd "$root"
for folder in doc info locale man; do
    rm -rf "usr/share/$folder"/*
    echo "path-exclude /usr/share/$folder/*" >>etc/dpkg/dpkg.cfg.d/small
done
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/*.log debootstrap
tar --create . | ${CONTAINERS:-docker} import - "$tag"
