"""Async tests on asyncio; a blocking call of ours on the loop fails the test."""

from tests.contract.fixtures import anyio_backend, no_blocking_calls

__all__ = ["anyio_backend", "no_blocking_calls"]
