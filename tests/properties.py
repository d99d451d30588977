"""How often a property is tried. A run of the suite tries a few, and other ones each time; a long one tries many:

    HYPOTHESIS_PROFILE=thorough .venv/bin/pytest -n auto tests/unit

which is for a night, before a release, and after a change to what reads foreign bytes.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE", "suite")

settings.register_profile("suite", deadline=None, max_examples=25)  # a busy machine is no counterexample
settings.register_profile("thorough", deadline=None, max_examples=1000)


def tried(suite: int, thorough: int) -> int:
    """For a property whose examples cost more, or mean less, than others' do."""
    return thorough if PROFILE == "thorough" else suite
