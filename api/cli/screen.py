"""Printing: tables that fit the terminal, one JSON document with ``--json``, errors on stderr.

What a server says may quote a hostile pack: everything passes ``shown``, which escapes control characters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table; ``keep`` columns are never cut."""

    title: str
    keep: bool = False
    right: bool = False


def shown(value: Any, limit: int = 500, *, newlines: bool = False) -> str:
    """Text that is safe on a terminal; None and empty are a dash."""
    from policies import safe_text

    text = "-" if value is None or value == "" else str(value)
    return safe_text(text, limit, newlines=newlines)


def print_json(document: Any) -> None:
    """The answer for a program: one document, ASCII, so that nothing in it can act on a terminal."""
    print(json.dumps(document, indent=2, default=str))


def print_line(text: str) -> None:
    """A line for a person."""
    print(shown(text, 4000))


def show_error(message: str, hint: str = "") -> None:
    """A message, and below it what to do."""
    print(f"error: {shown(message, 4000, newlines=True)}", file=sys.stderr)
    if hint:
        print(f"  hint: {shown(hint, 2000, newlines=True)}", file=sys.stderr)


def note(text: str) -> None:
    """Something on the side that belongs neither to the answer nor to errors."""
    print(shown(text, 2000), file=sys.stderr)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Rows under titles. On a narrow terminal other columns are shortened first; a ``keep`` column is whole."""
    if not rows:
        print(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            column.title,
            no_wrap=True,
            overflow="fold" if column.keep else "ellipsis",
            min_width=max(len(shown(row[columns.index(column)])) for row in rows) if column.keep else None,
            justify="right" if column.right else "left",
        )
    for row in rows:
        # Text, not str: rich would read [brackets] in a name as markup.
        table.add_row(*(Text(shown(cell)) for cell in row))
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        # Into a pipe nothing is cut: whoever reads it wants the text, not the layout.
        console = Console(highlight=False, width=max(200, console.width))
    console.print(table)


def ago(value: Any) -> str:
    """A time (ms since the epoch, or ISO) as "3 m"."""
    try:
        if isinstance(value, (int, float)):
            then = datetime.fromtimestamp(value / 1000, UTC)
        else:
            then = datetime.fromisoformat(str(value))
            then = then if then.tzinfo else then.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return "-"
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
