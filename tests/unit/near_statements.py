"""What may be done on the event loop though its name is that of a call which can block."""

from __future__ import annotations

from blockbuster import BlockBuster


def allow_short_statements(guard: BlockBuster) -> None:
    """Statements of a short transaction, which wait for nothing: the commit is a thread's."""
    for name, function in guard.functions.items():
        if name.startswith("sqlite3."):
            function.can_block_in("engine/writer_connection.py", "begin")
