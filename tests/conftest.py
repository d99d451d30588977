"""For the whole suite: what needs a container engine asks for it once, and how long properties are tested."""

import os

import pytest
from hypothesis import settings

from tests.contract.fixtures import engine, gvisor_runtime

__all__ = ["engine", "gvisor_runtime"]

pytest_plugins = ["tests.stack"]

# A busy machine is no counterexample. HYPOTHESIS_PROFILE=thorough looks longer.
settings.register_profile("suite", deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the ``engine`` fixture before all others of a marked test: no skip without it, no half-made fixture."""
    for item in items:
        if item.get_closest_marker("docker") and isinstance(item, pytest.Function):
            if item.get_closest_marker("gvisor"):
                item.fixturenames.insert(0, "gvisor_runtime")
            item.fixturenames.insert(0, "engine")
