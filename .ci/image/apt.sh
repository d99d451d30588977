#!/bin/sh
# Installs distribution packages, each named by the command that it brings, unless the image has it.
# Behind a mirror or a private CA: the secret "apt" holds the apt settings of the machine that builds.
set -eu
missing=
for package in "$@"; do
    command -v "$package" >/dev/null || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
set --
if [ -s /run/secrets/apt ]; then export APT_CONFIG=/run/secrets/apt; fi
if [ -s /run/secrets/ca ]; then set -- -o Acquire::https::CAInfo=/run/secrets/ca; fi
export DEBIAN_FRONTEND=noninteractive
apt-get "$@" -qq update
# shellcheck disable=SC2086  # a list of packages, split on purpose
apt-get "$@" -qq install -y --no-install-recommends $missing
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log /var/log/apt
