#!/usr/bin/env bash
# Removes the images, environments and build files that 'make' made. clean.sh data: the data directory as well.
. "$(dirname "$0")/lib.sh"
cd "$root"

remove_images() {
    docker info >/dev/null 2>&1 || return 0
    docker image ls --quiet --filter label=ringfence.image | sort -u | xargs --no-run-if-empty docker image rm --force
    docker image rm --force "${RINGFENCE_BASE:-ringfence-base:bookworm}"
}

remove_data() {
    local data=${RINGFENCE_DATA_DIR:-/var/lib/ringfence}
    case $data in
    */*ringfence*) rm -rf --one-file-system -- "$data" ;;
    *) die "left alone: the data directory $data does not have 'ringfence' in its path" "remove it by hand" ;;
    esac
}

step "clean: images" remove_images
if [ "${1:-}" = data ]; then step "clean: the data directory, pictures included" remove_data; fi
rm -rf .venv build
