#!/bin/sh
# Installs the checkout at /opt/ringfence into /opt/venv, in place: data beside the code is found as in a checkout.
. /ci/index.sh
# setuptools came with uv, by its hash; so nothing is fetched here.
site=$(echo /opt/uv/lib/python3*/site-packages)
PYTHONPATH="$site" VIRTUAL_ENV=/opt/venv /opt/uv/bin/uv pip install --no-deps --no-build-isolation --editable /opt/ringfence
find /opt/ringfence -name '*.egg-info' -prune -exec rm -rf {} +
/opt/venv/bin/python -I -m compileall -q /opt/ringfence
