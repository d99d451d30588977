#!/usr/bin/env bash
# Makes or updates .venv from the lock files. venv.sh run: what the command 'ringfence' needs; venv.sh dev: the tests' needs too.
. "$(dirname "$0")/lib.sh"
cd "$root"

kind=${1:-run}
uv=.venv/bin/uv

# digest KIND: what an environment of that kind was made from.
digest() {
    case $1 in
    run) cat requirements.lock .ci/tools.lock pyproject.toml ;;
    dev) cat requirements-dev.lock requirements-frontend.lock .ci/tools.lock .ci/torch.pin pyproject.toml ;;
    *) die "unknown kind '$1'" "use: venv.sh [run|dev]" ;;
    esac | sha256sum | cut -d' ' -f1
}

is_current() { [ -x .venv/bin/ringfence ] && [ "$(cat ".venv/.made-for-$1" 2>/dev/null)" = "$(digest "$1")" ]; }

find_python() {
    local python
    for python in "${PYTHON:-}" /usr/bin/python3.11 /usr/bin/python3 python3.11 python3; do
        if [ -n "$python" ] && "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

make_venv() {
    local python
    if ! [ -x .venv/bin/python ]; then
        python=$(find_python) || { apt_install python3 python3-venv && python=$(find_python); } ||
            die "no Python 3.11 or newer with its venv module" "install it, or set PYTHON to its path"
        "$python" -m venv .venv
    fi
    index_settings
    export UV_LINK_MODE=copy VIRTUAL_ENV=$root/.venv
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/tools.lock
    if [ "$kind" = dev ]; then
        "$uv" pip install --require-hashes -r requirements-dev.lock
        "$uv" pip install --require-hashes -r requirements-frontend.lock
        .ci/wheels.sh
        install_torch
    else
        "$uv" pip install --require-hashes -r requirements.lock
    fi
    "$uv" pip install --no-deps --no-build-isolation --editable .
    digest "$kind" >".venv/.made-for-$kind"
}

install_torch() {
    local torch
    torch=$(grep '^torch==' .ci/torch.pin)
    "$uv" pip install --no-deps --no-index --find-links build/wheels "$torch" ||
        "$uv" pip install --no-deps --torch-backend "${TORCH_BACKEND:-cpu}" "$torch" ||
        die "no CPU build of $torch could be had" \
            "put its wheel into a folder and set PIP_FIND_LINKS to it, or let uv reach torch's own index (docs/install.md)"
}

if is_current "$kind" || { [ "$kind" = run ] && is_current dev; }; then exit; fi
step "environment: .venv ($kind)" make_venv
