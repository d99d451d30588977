"""``comfy_api.internal.async_to_sync``: the blocking form of an API class."""

from __future__ import annotations

from typing import Any


def create_sync_class(async_class: Any, thread_pool_size: int = 10) -> type:
    """The class whose methods block until the coroutines of ``async_class`` have ended."""
    from ..latest import create_sync_class as create

    return create(async_class, thread_pool_size)


class AsyncToSyncConverter:
    """Makes blocking classes and runs single coroutine functions."""

    @classmethod
    def create_sync_class(cls, async_class: Any, thread_pool_size: int = 10) -> type:
        return create_sync_class(async_class, thread_pool_size)

    @classmethod
    def run_async_in_thread(cls, coro_func: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a coroutine function to its end, on a thread of its own."""
        from ..latest import run_to_end

        return run_to_end(coro_func(*args, **kwargs))
