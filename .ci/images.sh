#!/usr/bin/env bash
# Builds the images with BuildKit, quickly when nothing changed. images.sh [node|host]...: without one, both.
# RINGFENCE_VARIANT=cpu|full|cuda and TORCH_BACKEND choose the node image's torch, RINGFENCE_FRONTEND=no leaves the
# web page out of the host's; see docs/install.md.
. "$(dirname "$0")/lib.sh"
cd "$root"

base=${RINGFENCE_BASE:-ringfence-base:bookworm}
variant=${RINGFENCE_VARIANT:-cpu}
node_image=${RINGFENCE_NODE_IMAGE:-ringfence-node:$variant}
host_image=${RINGFENCE_HOST_IMAGE:-ringfence-host:latest}
secrets=$(mktemp -d)
trap 'rm -rf "$secrets"' EXIT

# What uv and pip read, as the lines of a shell file: it reaches a build as a secret, because an address may hold a password.
write_secrets() {
    local name
    for name in UV_DEFAULT_INDEX UV_INDEX UV_INDEX_STRATEGY PIP_INDEX_URL PIP_EXTRA_INDEX_URL UV_HTTP_TIMEOUT; do
        if [ -n "${!name:-}" ]; then printf '%s=%q\n' "$name" "${!name}"; fi
    done >"$secrets/index"
    apt_settings >"$secrets/apt"
    cp "$(ca_bundle)" "$secrets/ca" 2>/dev/null || : >"$secrets/ca"
}

build() {
    local dockerfile=$1 tag=$2
    shift 2
    # The proxy settings are arguments that BuildKit knows and keeps out of the image's history.
    # The setting says how environments are built, too; of its words BuildKit knows "host".
    local network=default
    [ "${RINGFENCE_BUILD_NETWORK:-}" != host ] || network=host
    docker buildx build --progress plain --load --network "$network" \
        --secret "id=ca,src=$secrets/ca" --secret "id=index,src=$secrets/index" \
        --secret "id=apt,src=$secrets/apt" \
        --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
        --build-arg HTTP_PROXY --build-arg HTTPS_PROXY --build-arg NO_PROXY \
        --build-arg "BASE=$base" "$@" --file "$dockerfile" --tag "$tag" .
}

node() {
    if [ "$variant" = cpu ]; then "$root/.ci/wheels.sh"; fi
    step "image: $node_image" build Dockerfile.node "$node_image" \
        --build-arg "VARIANT=$variant" --build-arg "TORCH_BACKEND=${TORCH_BACKEND:-}"
    docker run --rm --network none --read-only --cap-drop ALL "$node_image" cat /opt/venv/ringfence-image.json |
        sed -n -e '/"partial"/,/}/ s/^ *"\(.*\)": "\(.*\)",*$/    note: \1 \2/p' \
            -e '/"absent"/,$ s/^ *"\(.*\)": "\(.*\)",*$/    note: without \1: \2/p'
}

host() {
    step "image: $host_image" build Dockerfile.host "$host_image" --build-arg "FRONTEND=${RINGFENCE_FRONTEND:-yes}"
}

index_settings
write_secrets
[ $# -gt 0 ] || set -- node host
for image in "$@"; do
    case $image in
    node | host) "$image" ;;
    *) die "unknown image '$image'" "use: images.sh [node|host]..." ;;
    esac
done
