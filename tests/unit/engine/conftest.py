"""Every test here runs on asyncio with blocking calls on the event loop forbidden, and against stand-ins only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from tests.unit.near_statements import allow_short_statements


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def blocking_calls_fail() -> Iterator[BlockBuster]:
    with blockbuster_ctx() as guard:
        allow_short_statements(guard)
        yield guard
