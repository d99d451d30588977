"""Fixtures that every test of sandboxes uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

# One system call each on a file system in memory: faster than handing it to a thread.
_TMPFS = {
    "allocate",
    "grant",
    "revoke",
    "_adopt_one",
    "_discard_file",
    "_forget",
    "_sized",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    with blockbuster_ctx("sandbox") as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("sandbox/tensors.py", _TMPFS)
        yield
