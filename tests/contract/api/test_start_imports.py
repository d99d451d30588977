"""What a host does not do while it loads: each costs every restart a tenth of a second."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from api.cli.loading import loading

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


def test_the_collector_rests_while_the_program_loads_and_has_nothing_to_look_at_after_that() -> None:
    program = (
        f"import sys, json, gc; sys.path.insert(0, {str(ROOT)!r}); from api.cli.loading import loading\n"
        "rounds = []; gc.callbacks.append(lambda phase, info: rounds.append(phase))\n"
        "with loading(): import api.server\n"
        "print(json.dumps([len(rounds), gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects())]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True, timeout=120
    )
    rounds, is_on, is_frozen, left = json.loads(done.stdout)
    assert (rounds, is_on, is_frozen) == (0, True, True)
    assert left < 10_000


def test_the_collector_is_on_again_when_loading_failed() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError("no such module")
    assert gc.isenabled()
