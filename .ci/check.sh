#!/usr/bin/env bash
# Format, lint, types and layering. check.sh fix: mends what can be mended.
. "$(dirname "$0")/lib.sh"
cd "$root"

bin=.venv/bin
if [ "${1:-}" = fix ]; then
    step "fix: lint" "$bin/ruff" check --fix --quiet .
    step "fix: format" "$bin/ruff" format --quiet .
    exit
fi

failed=0
step "check: format" "$bin/ruff" format --check . || failed=1
step "check: lint" "$bin/ruff" check . || failed=1
step "check: types" "$bin/mypy" || failed=1
step "check: layering" "$bin/pytest" -q tests/unit/test_layering.py || failed=1
[ "$failed" = 0 ] || die "a check failed" "'make fix' mends format and some lint; the rest stands above"
