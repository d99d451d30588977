#!/bin/sh
# Makes /opt/venv from a lock file, every package by its hash. It has no pip; uv installs from outside.
. /ci/index.sh
python3 -m venv --without-pip /opt/venv
VIRTUAL_ENV=/opt/venv /opt/uv/bin/uv pip install --require-hashes -r /ci/requirements.lock
