#!/usr/bin/env bash
# Format, lint, types, layering, and that every test can be imported. check.sh fix: mends what can be mended.
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
# Types take one processor. On another, meanwhile: every test can be imported, and its compiled file, which each worker
# of a first run would make anew, is there.
mkdir -p "$logs"
"$bin/pytest" -q --collect-only tests >"$logs/collection.log" 2>&1 </dev/null &
collecting=$!
step "check: types" "$bin/mypy" || failed=1
printf '==> check: every test can be imported ... '
if wait "$collecting"; then
    echo yes
else
    echo no
    tail -n 40 "$logs/collection.log" >&2
    failed=1
fi
step "check: layering" "$bin/pytest" -q tests/unit/test_layering.py || failed=1
[ "$failed" = 0 ] || die "a check failed" "'make fix' mends format and some lint; the rest stands above"
