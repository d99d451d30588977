"""What is marked as needing a container engine asks for it, by name and once."""

import pytest

from tests.contract.fixtures import engine

__all__ = ["engine"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the ``engine`` fixture before all others of a marked test: no skip without it, no half-made fixture."""
    for item in items:
        if item.get_closest_marker("docker") and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, "engine")
