#!/bin/sh
# Installs the locked uv at /opt/uv, outside every environment that it will be used on.
. /ci/index.sh
python3 -m venv /tmp/pip
/tmp/pip/bin/pip install --quiet --no-cache-dir --require-hashes --prefix /opt/uv -r /ci/tools.lock
rm -rf /tmp/pip
/opt/uv/bin/uv --version
