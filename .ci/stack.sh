#!/usr/bin/env bash
# The running stack. stack.sh up: starts it and waits until it answers; stack.sh down: leaves nothing of it behind.
. "$(dirname "$0")/lib.sh"
cd "$root"

instance=${RINGFENCE_INSTANCE:-local}
shm=${RINGFENCE_SHM_DIR:-/dev/shm/ringfence}
run=${RINGFENCE_RUN_DIR:-/run/ringfence}

# compose COMMAND...: with the settings that only this machine can know.
compose() {
    RINGFENCE_CA_BUNDLE=$(ca_bundle)
    export RINGFENCE_CA_BUNDLE
    docker compose --ansi never --progress quiet "$@"
}

# probe: what /readyz says, status line first; nothing when nobody listens.
probe() {
    local address
    address=$(stack_url)
    address=${address#http://}
    # shellcheck disable=SC2016  # the inner shell fills in $1
    timeout 5 bash -c 'exec 3<>"/dev/tcp/${1%:*}/${1##*:}" &&
        printf "GET /readyz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" "$1" >&3 && head -c 2000 <&3' - "$address" 2>/dev/null
}

wait_until_ready() {
    local host said='' i
    host=$(compose ps --all --quiet host)
    for ((i = 0; i < 480; i++)); do
        said=$(probe || true)
        case $said in "HTTP/1.1 200"*) return ;; esac
        # The engine restarts a host that ended; one that ends at its start will not get better.
        if [ "$(docker inspect --format '{{.RestartCount}}' "$host")" -gt 0 ]; then break; fi
        sleep 0.25
    done
    compose logs --tail 30 launcher host
    printf '%s\n' "$said"
    return 1
}

start() {
    index_settings
    compose up --detach --no-build --remove-orphans || {
        compose logs --tail 40
        return 1
    }
}

up() {
    step "stack: start" start ||
        die "the stack did not start" "is the port taken? set RINGFENCE_PORT to another; './ringfence doctor' looks further"
    step "stack: wait until $(stack_url) is ready" wait_until_ready ||
        die "the stack is not ready" "what the host said stands above; './ringfence doctor' says what is missing"
}

# Sandboxes and builds carry this instance's label; the launcher ends them when it stops, unless it was killed.
remove_containers() {
    docker ps --all --quiet --filter "label=ringfence.instance=$instance" | xargs --no-run-if-empty docker rm --force --volumes
}

# Another instance may have its own part of the same directories.
remove_files() {
    rm -rf --one-file-system -- "${shm:?}/$instance" "$shm/$instance.lock" "${run:?}/$instance" \
        "$run/$instance.launcher"
    rmdir --ignore-fail-on-non-empty "$shm" "$run" 2>/dev/null || true
}

stop() {
    if docker info >/dev/null 2>&1; then
        compose down --remove-orphans --timeout 20
        remove_containers
    fi
    remove_files
}

case ${1:-} in
up) up ;;
down) step "stack: stop, and remove what it left in the engine, /dev/shm and /run" stop ;;
*) die "unknown verb '${1:-}'" "use: stack.sh up|down" ;;
esac
