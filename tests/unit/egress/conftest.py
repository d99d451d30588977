"""Async tests on asyncio; a blocking call of ours on the loop fails the test."""

import pytest

from tests.contract.fixtures import anyio_backend, no_blocking_calls

__all__ = ["anyio_backend", "no_blocking_calls"]


@pytest.fixture(autouse=True)
def clients_that_hang_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """These clients are next door: what they still send is there at once."""
    monkeypatch.setattr("sandbox.egress.conversation._LINGER_S", 0.1)
