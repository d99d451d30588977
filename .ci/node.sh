#!/usr/bin/env bash
# Makes sure of Node.js and npm for the tests with clients from npm; installs Debian's when there is none.
. "$(dirname "$0")/lib.sh"

wanted=20

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    step "packages: nodejs npm" apt_install nodejs npm
fi
found=$(node --version) || die "node does not run" "reinstall it: apt-get install --reinstall nodejs"
major=${found#v}
[ "${major%%.*}" -ge "$wanted" ] || die "Node.js $found is too old: the client packages need $wanted or newer" \
    "install a newer one (Debian 13 has 20) and put it first in PATH"
printf 'node %s, npm %s\n' "$found" "$(npm --version)"
