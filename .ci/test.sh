#!/usr/bin/env bash
# Runs every level of the test suite, one pytest each, and closes with the sum. test.sh [LEVEL...]: only those;
# LEVEL-none is the same level without any of the product's fast paths (docs/performance.md).
. "$(dirname "$0")/lib.sh"
cd "$root"

# Here a missing engine is a failure, not a reason to skip.
export RINGFENCE_REQUIRE_DOCKER=1
# A distribution need not have gVisor; where it is installed, its tests run.
if command -v runsc >/dev/null; then export RINGFENCE_REQUIRE_GVISOR=1; fi
results=build/test
levels=("$@")
if [ ${#levels[@]} -eq 0 ]; then
    # From fast to slow, then any that this list has not heard of.
    for level in unit unit-none docs contract integration security compat e2e clients browser $(find tests -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort); do
        case " ${levels[*]} " in *" $level "*) continue ;; esac
        # No pipe into 'grep -q': it stops reading, find is killed for that, and pipefail calls the level empty.
        if [ "$level" != extensions ] && [ -n "$(find "tests/${level%-none}" -name 'test_*.py' -print -quit 2>/dev/null)" ]; then
            levels+=("$level")
        fi
    done
fi

case " ${levels[*]} " in *" browser "* | *" browser-none "*) .ci/browser.sh ;; esac

rm -rf "$results"
mkdir -p "$results"
status=0
for level in "${levels[@]}"; do
    say "test: $level"
    folder=${level%-none}
    ways=${RINGFENCE_FAST_PATHS:-all}
    if [ "$folder" != "$level" ]; then ways=none; fi
    workers=()
    # The other levels share an engine. One more than there are processors: some tests wait for deadlines.
    # No unit test needs the plug-in, which takes most of a second to import, in each of these processes.
    if [ "$folder" = unit ]; then workers=(--numprocesses "$(($(nproc) + 1))" --dist worksteal -p no:schemathesis); fi
    # A level that hangs, at its very end too, must not take the whole run's time: it says where, and fails.
    RINGFENCE_FAST_PATHS=$ways PYTHONFAULTHANDLER=1 timeout --foreground --signal ABRT --kill-after 30 "${RINGFENCE_LEVEL_TIMEOUT_S:-1500}" \
        .venv/bin/pytest --quiet "${workers[@]}" --junitxml="$results/$level.xml" "tests/$folder" </dev/null || status=1
done

.venv/bin/python - "$results" <<'PYTHON' || status=1
import pathlib, sys, xml.etree.ElementTree as xml
total = [0, 0, 0]
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.xml"), key=lambda path: path.stat().st_mtime):
    suite = xml.parse(path).getroot().find("testsuite")
    tests, bad, skipped = int(suite.get("tests")), int(suite.get("failures")) + int(suite.get("errors")), int(suite.get("skipped"))
    for index, count in enumerate((tests - bad - skipped, bad, skipped)):
        total[index] += count
    print(f"    {path.stem:12} {tests - bad - skipped:5} passed {bad:4} failed {skipped:4} skipped {float(suite.get('time')):8.1f} s")
closing = "{} passed, {} failed, {} skipped".format(*total)
pathlib.Path(sys.argv[1], "summary").write_text(closing + "\n", encoding="utf-8")
print(closing)
sys.exit(0 if total[0] and not total[1] else 1)
PYTHON
exit "$status"
