#!/usr/bin/env bash
# Prints the directory of a Node.js (with npm) for the tests with clients from npm: the machine's own when it is new enough,
# else one from the Python package index, as locked, under build/ (Debian 12 has 18, too old for the clients).
. "$(dirname "$0")/lib.sh"
cd "$root"

wanted=20
lock=tests/clients/locks/nodejs.txt

is_new_enough() {
    local version
    command -v npm >/dev/null && version=$(node --version 2>/dev/null) || return 1
    version=${version#v}
    [ "${version%%.*}" -ge "$wanted" ]
}

if is_new_enough; then
    dirname "$(command -v node)"
    exit
fi
place=$root/build/clients/nodejs-$(sha256sum "$lock" | cut -c1-12)
if ! [ -f "$place/.made" ]; then
    install_node() {
        index_settings
        rm -rf "$place"
        .venv/bin/uv venv --quiet --python .venv/bin/python "$place"
        .venv/bin/uv pip install --quiet --python "$place/bin/python" --require-hashes -r "$lock"
        touch "$place/.made"
    }
    step "Node.js: install it from $lock" install_node >&2
fi
"$place/bin/node" --version >/dev/null || die "the Node.js in $place does not run" "remove that directory and try again"
printf '%s\n' "$place/bin"
