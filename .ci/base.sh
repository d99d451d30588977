#!/usr/bin/env bash
# Provides the Python base image that both Dockerfiles start from, and prints nothing but its steps.
# A registry's stock image is used when one answers; otherwise one is built from distribution packages.
. "$(dirname "$0")/lib.sh"

stock=${RINGFENCE_STOCK_BASE:-python:3.11-slim-bookworm}
image=${RINGFENCE_BASE:-ringfence-base:bookworm}
suite=bookworm

exists() { docker image inspect "$1" >/dev/null 2>&1; }

pull() {
    timeout "${RINGFENCE_PULL_TIMEOUT:-60}" docker pull --quiet "$stock" && docker tag "$stock" "$image"
}

bootstrap() {
    command -v mmdebstrap >/dev/null || apt_install mmdebstrap
    local mirror security dir
    mirror=$(debian_mirror Debian)
    security=$(debian_mirror Debian-Security)
    dir=$(mktemp -d)
    apt_settings >"$dir/apt.conf"
    if [ -n "$mirror" ]; then
        echo "deb $mirror $suite main"
        echo "deb $mirror $suite-updates main"
        [ -z "$security" ] || echo "deb $security $suite-security main"
    fi >"$dir/sources.list"
    # The image keeps no settings of this machine: strangers' code will be able to read it.
    # shellcheck disable=SC2016  # mmdebstrap's own shell fills in $1, the new root
    mmdebstrap --variant=minbase --include=python3,python3-venv,ca-certificates --aptopt="$dir/apt.conf" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/hostname" "$1/etc/resolv.conf"' \
        --customize-hook='sed -i -E "s#//[^/@ ]+@#//#" $(find "$1/etc/apt" -name "*sources*" -type f)' \
        "$suite" "$dir/root.tar" ${mirror:+"$dir/sources.list"}
    docker import --change 'CMD ["python3"]' --change 'ENV LANG=C.UTF-8' \
        --change "LABEL org.opencontainers.image.title=ringfence-base ringfence.base=debian-$suite" \
        "$dir/root.tar" "$image"
    rm -rf "$dir"
}

if exists "$image"; then
    say "base image: $image is there"
elif exists "$stock"; then
    docker tag "$stock" "$image"
    say "base image: $image is $stock"
elif [ "${RINGFENCE_REGISTRY:-yes}" = yes ] && pull >/dev/null 2>&1; then
    say "base image: $image is $stock, from a registry"
else
    need_root "building the base image"
    step "base image: build $image from distribution packages (no registry answered)" bootstrap
fi
