"""What a host does not import when it starts: each costs every restart a tenth of a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_a_start_imports_neither_the_engines_sdk_nor_what_few_starts_need() -> None:
    program = (
        f"import sys, json; sys.path.insert(0, {str(ROOT)!r}); import api.server; "
        "print(json.dumps([name for name in ('alembic', 'cyclonedx', 'docker') if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True, timeout=120
    )
    assert json.loads(done.stdout) == []
