#!/bin/sh
# Starts the command 'ringfence' in the host's container.
set -eu

# A private CA that was mounted is trusted by it, by git and by the builds of environments.
if [ -s /etc/ringfence/ca.pem ]; then
    export SSL_CERT_FILE=/etc/ringfence/ca.pem GIT_SSL_CAINFO=/etc/ringfence/ca.pem RINGFENCE_CA_BUNDLE=/etc/ringfence/ca.pem
fi

# The engine mounts the built-in nodes into their sandbox, and it can only mount what lies outside this container: in the
# data directory, whose path is the same inside and outside. The launcher puts them there, so that the host need not be
# able to change them; a container that is both does it for itself.
case ${1:-} in
launcher) core=${RINGFENCE_CORE_DIR:-} ;;
serve) [ "${RINGFENCE_LAUNCHER:-child}" = service ] || [ -n "${RINGFENCE_CORE_DIR:-}" ] || core=$RINGFENCE_DATA_DIR/core ;;
esac
if [ -n "${core:-}" ]; then
    export RINGFENCE_CORE_DIR="$core"
    # Kept when nothing changed: a host that runs has this very directory mounted.
    if ! diff -rq /opt/ringfence/extensions/core "$core" >/dev/null 2>&1; then
        rm -rf "$core.new" "$core.old"
        cp -R /opt/ringfence/extensions/core "$core.new"
        chmod -R a+rX "$core.new"
        if [ -e "$core" ]; then mv "$core" "$core.old"; fi
        mv "$core.new" "$core"
        rm -rf "$core.old"
    fi
fi
exec ringfence "$@"
