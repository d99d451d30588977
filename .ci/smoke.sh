#!/usr/bin/env bash
# Runs examples/smoke through the running stack: a photograph through two extensions, each in a sandbox of its own.
. "$(dirname "$0")/lib.sh"
cd "$root"

answer=build/smoke.json
RINGFENCE_URL=$(stack_url)
export RINGFENCE_URL
# With tenants configured, this is the operator's own run.
operator_token=${RINGFENCE_DATA_DIR:-/var/lib/ringfence}/operator.token
if [ -z "${RINGFENCE_TOKEN:-}" ] && [ -r "$operator_token" ]; then
    RINGFENCE_TOKEN=${RINGFENCE_OPERATOR_TOKEN:-$(cat "$operator_token")}
    export RINGFENCE_TOKEN
fi

add_extension() {
    if ! ./ringfence extension list --json | .venv/bin/python -c '
import json, sys
listed = json.load(sys.stdin)
listed = listed.get("extensions", []) if isinstance(listed, dict) else listed
sys.exit(not any(entry["name"] == sys.argv[1] for entry in listed))' "$1"; then
        ./ringfence extension add "examples/$1/$1"
    fi
}

run_prompt() {
    ./ringfence run examples/smoke/prompt.json --upload examples/photograph/astronaut.jpg --json >"$answer" || {
        cat "$answer"
        ./ringfence extension list
        return 1
    }
}

mkdir -p build
step "smoke test: extension numpy1" add_extension numpy1
step "smoke test: extension numpy2" add_extension numpy2
step "smoke test: run examples/smoke/prompt.json" run_prompt
.venv/bin/python - "$answer" <<'PYTHON'
import json, sys
answer = json.load(open(sys.argv[1], encoding="utf-8"))
for node in answer["nodes"]:
    took = "cached" if node["cached"] else f"{node['seconds'] or 0:.2f} s"
    print(f"    {node['class_type']:20} of {node['extension'] or '-':10} in sandbox {node['sandbox'] or '-':24} {took}")
for output in answer["outputs"]:
    print(f"    picture: {output.get('path') or output['url']}")
print(f"    the whole workflow: {answer['seconds'] or 0:.2f} s")
PYTHON
say "Ringfence answers at $RINGFENCE_URL"
