#!/usr/bin/env bash
# Writes the lock files from pyproject.toml: every version pinned, every file by its hash, no index named.
# lock.sh [--upgrade]: without it, versions already locked are kept where they still fit.
. "$(dirname "$0")/lib.sh"
cd "$root"

uv=${UV:-.venv/bin/uv}
command -v "$uv" >/dev/null || die "uv is missing" "run 'make venv' first: the development environment brings it"
index_settings

# requirements NAME: the lines of one extra of pyproject.toml, or of the project itself, without torch.
requirements() {
    python3 - "$1" <<'PYTHON'
import re, sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
lines = project["dependencies"] if sys.argv[1] == "project" else project["optional-dependencies"][sys.argv[1]]
print("\n".join(line for line in lines if re.match(r"[\w.-]+", line)[0] != "torch"))
PYTHON
}

compile() {
    local output=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links "${upgrade[@]}" --output-file "$output" -
    if grep -nE '://|/(home|root|opt|work|tmp)/' "$output"; then
        die "$output names an address or a path of this machine" "see the lines above"
    fi
}

upgrade=("$@")
lock_project() { requirements project | compile requirements.lock; }
lock_dev() { { requirements project; requirements dev; cat .ci/torch.in .ci/tools.in; } | compile requirements-dev.lock; }
lock_node() { { requirements node; cat .ci/torch.in; } | compile requirements-node.lock; }
lock_frontend() { requirements frontend | compile requirements-frontend.lock; }
# The client packages that the tests use, each for itself.
lock_clients() {
    local list folder
    for list in tests/clients/locks/*.in; do compile "${list%.in}.txt" <"$list"; done
    PATH=$(.ci/node.sh):$PATH
    for folder in tests/clients/locks/*/; do
        (cd "$folder" && npm install --package-lock-only --omit-lockfile-registry-resolved --legacy-peer-deps \
            --ignore-scripts --no-audit --no-fund --no-update-notifier)
        python3 - "$folder/package-lock.json" <<'PYTHON'
import json, sys
lock = json.load(open(sys.argv[1]))
for package in lock["packages"].values():
    package.pop("funding", None)
json.dump(lock, open(sys.argv[1], "w"), indent=2)
PYTHON
        if grep -n '://' "$folder/package-lock.json"; then die "$folder/package-lock.json names an address"; fi
    done
}
lock_tools() { compile .ci/tools.lock <.ci/tools.in; }

step "lock: requirements.lock" lock_project
step "lock: requirements-dev.lock" lock_dev
step "lock: requirements-node.lock" lock_node
step "lock: requirements-frontend.lock" lock_frontend
step "lock: .ci/tools.lock" lock_tools
step "lock: tests/clients/locks" lock_clients
