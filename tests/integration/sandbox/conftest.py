"""Async tests on asyncio; a blocking call of ours on the loop fails the test."""

import pytest

from tests.contract.fixtures import anyio_backend, engine, no_blocking_calls

__all__ = ["anyio_backend", "engine", "no_blocking_calls"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked as needing the engine asks for it."""
    for item in items:
        if item.get_closest_marker("docker") and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, "engine")
