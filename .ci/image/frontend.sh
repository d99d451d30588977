#!/bin/sh
# Adds ComfyUI's web page to /opt/venv by its hash, unless the build argument FRONTEND says no.
. /ci/index.sh
case "${FRONTEND:-yes}" in
yes) VIRTUAL_ENV=/opt/venv /opt/uv/bin/uv pip install --no-deps --require-hashes -r /ci/requirements-frontend.lock ;;
no) echo "the image goes on without ComfyUI's web page" ;;
*)
    echo "error: unknown FRONTEND '$FRONTEND': take yes or no" >&2
    exit 1
    ;;
esac
