# Sourced by the image builds: how the package index is reached. Certificates and addresses (which may hold a password)
# come as build secrets, so that no layer and no history of the image keeps them.
# shellcheck shell=sh
set -eu

unset PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHONOPTIMIZE
if [ -s /run/secrets/index ]; then
    set -a
    # shellcheck source=/dev/null
    . /run/secrets/index
    set +a
fi
if [ -s /run/secrets/ca ]; then
    export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca GIT_SSL_CAINFO=/run/secrets/ca
fi
[ -n "${UV_DEFAULT_INDEX:-}" ] || [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="$PIP_INDEX_URL"
[ -n "${UV_INDEX:-}" ] || [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX="$PIP_EXTRA_INDEX_URL"
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL; do
    eval "[ -n \"\${$name:-}\" ]" || unset "$name"
done
export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}" UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
