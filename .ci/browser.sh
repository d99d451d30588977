#!/usr/bin/env bash
# Makes sure that a Chromium is there for the browser tests: the distribution's, which Playwright's Python drives.
. "$(dirname "$0")/lib.sh"

if command -v chromium >/dev/null; then exit; fi
step "browser: install it from distribution packages" apt_install chromium fonts-dejavu-core
command -v chromium >/dev/null || die "the browser tests have no chromium" "install the distribution's package 'chromium'"
