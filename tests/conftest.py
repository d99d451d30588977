"""For the whole suite: what needs a container engine asks for it once, and how long properties are tested."""

import asyncio
import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from anyio._backends import _asyncio as anyio_asyncio
from anyio._backends._asyncio import TestRunner
from hypothesis import settings

from sandbox import FastPath, parse_fast_paths, take_fast_paths, takes
from tests.contract.fixtures import engine, gvisor_runtime
from tests.properties import PROFILE

__all__ = ["engine", "gvisor_runtime"]

pytest_plugins = ["tests.stack"]

settings.load_profile(PROFILE)


# The suite passes with and without each of the product's fast paths: RINGFENCE_FAST_PATHS=none.
take_fast_paths(parse_fast_paths(os.environ.get("RINGFENCE_FAST_PATHS", "all")))


@pytest.fixture
def every_fast_path() -> Iterator[None]:
    """All of them, for tests of one of them."""
    taken = {path for path in FastPath if takes(path)}
    take_fast_paths(FastPath)
    yield
    take_fast_paths(taken)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the ``engine`` fixture before all others of a marked test: no skip without it, no half-made fixture."""
    for item in items:
        if item.get_closest_marker("docker") and isinstance(item, pytest.Function):
            if item.get_closest_marker("gvisor"):
                item.fixturenames.insert(0, "gvisor_runtime")
            item.fixturenames.insert(0, "engine")


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look through it a hundred times."""
    gc.collect()
    gc.freeze()


class _PatientRunner(TestRunner):
    """anyio's runner of tests, but for a race of anyio's own UNIX streams that harms nobody.

    A stream that is cancelled just as its socket becomes readable has the loop settle the future that was cancelled
    already (``loop.add_reader(socket, future.set_result)``). The runner would blame whichever test was under way.
    """

    def _exception_handler(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        settled = getattr(getattr(context.get("handle"), "_callback", None), "__self__", None)
        is_the_race = isinstance(context.get("exception"), asyncio.InvalidStateError)
        if not (is_the_race and isinstance(settled, asyncio.Future) and settled.cancelled()):
            super()._exception_handler(loop, context)


anyio_asyncio.TestRunner = _PatientRunner  # type: ignore[misc]
