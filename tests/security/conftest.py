"""Async tests on asyncio; a blocking call of ours on the loop fails the test. And each attack under both runtimes."""

import pytest

from tests.contract.fixtures import anyio_backend, no_blocking_calls

__all__ = ["anyio_backend", "no_blocking_calls"]


@pytest.fixture(params=["runc", pytest.param("gvisor", marks=pytest.mark.gvisor)])
def isolation(request: pytest.FixtureRequest) -> str:
    """What the sandboxes of a test run in."""
    return request.param  # type: ignore[no-any-return]
