#!/bin/sh
# Starts the command 'ringfence' in the host's container.
set -eu

# A private CA that was mounted is trusted by it, by git and by the builds of environments.
if [ -s /etc/ringfence/ca.pem ]; then
    export SSL_CERT_FILE=/etc/ringfence/ca.pem GIT_SSL_CAINFO=/etc/ringfence/ca.pem RINGFENCE_CA_BUNDLE=/etc/ringfence/ca.pem
fi

# The engine mounts the built-in nodes into their sandbox, and it can only mount what lies outside this container: in the
# data directory, whose path is the same inside and outside.
if [ "${1:-}" = serve ] && [ -z "${RINGFENCE_CORE_DIR:-}" ]; then
    export RINGFENCE_CORE_DIR="$RINGFENCE_DATA_DIR/core"
    rm -rf "$RINGFENCE_CORE_DIR.new" "$RINGFENCE_CORE_DIR.old"
    cp -R /opt/ringfence/extensions/core "$RINGFENCE_CORE_DIR.new"
    chmod -R a+rX "$RINGFENCE_CORE_DIR.new"
    if [ -e "$RINGFENCE_CORE_DIR" ]; then mv "$RINGFENCE_CORE_DIR" "$RINGFENCE_CORE_DIR.old"; fi
    mv "$RINGFENCE_CORE_DIR.new" "$RINGFENCE_CORE_DIR"
    rm -rf "$RINGFENCE_CORE_DIR.old"
fi
exec ringfence "$@"
