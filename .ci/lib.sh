# Sourced by the other scripts: one line per step, and an explanation when a step fails.
# shellcheck shell=bash

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What a failed step printed is kept here until the next run.
logs="$root/build/log"

# Installed packages must keep their compiled files: without them `import torch` takes almost three times as long.
unset PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHONOPTIMIZE

# Settings that outlive a shell stand in .env, one NAME=value a line, where compose reads them too. The environment wins.
if [ -f "$root/.env" ]; then
    while IFS='=' read -r name value; do
        if [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] && [ -z "${!name+set}" ]; then export "$name=$value"; fi
    done <"$root/.env"
fi

say() { printf '==> %s\n' "$*"; }

# die WHAT [HINT...]: says what is missing and, a line each, what to do about it.
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    printf '  %s\n' "$@" >&2
    exit 1
}

# step TITLE COMMAND...: runs COMMAND with its output in a log; prints TITLE and how long it took, or the log's end.
step() {
    local title=$1 log start status
    shift
    mkdir -p "$logs"
    log="$logs/$(printf '%s' "$title" | tr -cs 'A-Za-z0-9' '-' | cut -c1-60).log"
    start=$(date +%s%N)
    printf '==> %s ... ' "$title"
    # Not "(...) || status=$?": in such a list bash ignores 'set -e' inside the command.
    set +e
    (
        set -e
        "$@"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        printf 'failed\n'
        tail -n 40 "$log" | sed -E 's/^(.{200}).*(.{1000})$/\1 [...] \2/' >&2
        printf 'error: "%s" failed (exit status %d); the whole output is in %s\n' "$title" "$status" "$log" >&2
        return "$status"
    fi
    printf '%d.%d s\n' $((($(date +%s%N) - start) / 1000000000)) $((($(date +%s%N) - start) / 100000000 % 10))
}

need_root() {
    [ "$(id -u)" -eq 0 ] || die "$1 needs root" "run it as root, for example: sudo make up"
}

# apt_install PACKAGE...: installs what is missing, after one 'apt-get update'.
apt_install() {
    need_root "installing $*"
    command -v apt-get >/dev/null || die "this machine has no apt-get" "install by hand: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends "$@"
}

# debian_mirror LABEL: the address that this machine's own apt sources use for Debian or Debian-Security.
debian_mirror() {
    # shellcheck disable=SC2016  # apt fills in these names, not the shell
    apt-get indextargets --format '$(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v label="$1" '$1 == label && $2 == "main" { print $3; exit }'
}

# pip_setting NAME: what pip itself was told on this machine, by its environment or its files ("cert", "index-url").
pip_setting() {
    local pip="$root/.venv/bin/pip"
    [ -x "$pip" ] || return 0
    "$pip" config list 2>/dev/null | sed -n -E "s/^(global|install|download|:env:)\.$1='(.*)'\$/\2/p" | tail -n 1
}

# index_settings: exports, for uv, how this machine reaches its package index. pip's own settings are taken over where
# uv has none; a folder on this machine's disk is left out, because a build in a container could not see it.
index_settings() {
    local extra words
    export PIP_INDEX_URL=${PIP_INDEX_URL:-$(pip_setting index-url)}
    export PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL:-$(pip_setting extra-index-url)}
    read -r -a words <<<"$PIP_EXTRA_INDEX_URL"
    extra=$(printf '%s\n' "${words[@]}" | grep -E '^https?://' | tr '\n' ' ' || true)
    export PIP_EXTRA_INDEX_URL=${extra% }
    [ -n "$PIP_INDEX_URL" ] || unset PIP_INDEX_URL
    [ -n "$PIP_EXTRA_INDEX_URL" ] || unset PIP_EXTRA_INDEX_URL
    [ -n "${UV_DEFAULT_INDEX:-}" ] || [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=$PIP_INDEX_URL
    [ -n "${UV_INDEX:-}" ] || [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX=$PIP_EXTRA_INDEX_URL
    # shellcheck disable=SC2086  # a list of addresses, split on purpose
    # With several indexes, do as pip does: the best version of all, not the first index that knows the name.
    export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
    SSL_CERT_FILE=$(ca_bundle)
    export SSL_CERT_FILE
    [ -n "$SSL_CERT_FILE" ] || unset SSL_CERT_FILE
}

# ca_bundle: the certificates that this machine trusts, a private authority included.
ca_bundle() {
    local file
    for file in "${RINGFENCE_CA_BUNDLE:-}" "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}" \
        "$(pip_setting cert)" /etc/ssl/certs/ca-certificates.crt; do
        if [ -n "$file" ] && [ -s "$file" ]; then
            printf '%s' "$file"
            return
        fi
    done
}

# apt_settings: what this machine's apt had to be told about its mirror (a proxy, retries), for apt elsewhere.
apt_settings() {
    apt-config dump Acquire 2>/dev/null | grep -Ei '^Acquire::(https?|Retries|Check-Valid-Until|Check-Date)' || true
}

# stack_url: where the stack of this checkout answers.
stack_url() {
    local host=${RINGFENCE_PUBLISH:-127.0.0.1}
    [ "$host" != 0.0.0.0 ] || host=127.0.0.1
    printf 'http://%s:%s' "$host" "${RINGFENCE_PORT:-8188}"
}
