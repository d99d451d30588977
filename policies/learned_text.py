"""A learned policy as a file: a line for each value with what was seen behind it, wishes as comments.

Comments quote a hostile pack, so each is made safe and is one line, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policies.text import safe_text

_SECTIONS: Final = ("timeouts", "limits", "build")
_COMMENT: Final = 400
_COLUMN: Final = 44
_TOP: Final = (
    "# What a run of it used, and no more than its policy allowed at that time.",
    "# measured: counted by the host, its proxy or the kernel.  claimed: said by the sandbox, so it only takes away.",
)


class Basis(StrEnum):
    """What a line rests on."""

    MEASURED = "measured"
    CLAIMED = "claimed"
    KEPT = "kept"
    """Nothing of the run: it was so before."""


@dataclass(frozen=True, slots=True)
class Item:
    """One value, or one entry of a list."""

    text: str
    """As YAML."""
    said: str
    basis: Basis
    is_wish: bool = False
    """Not granted: an entry that is a comment, among others that are not."""


@dataclass(frozen=True, slots=True)
class Line:
    """One key."""

    key: str
    items: tuple[Item, ...]
    within: str = ""
    """The items are a list under this word (``allow`` of ``network``)."""
    is_wish: bool = False
    """All of it is a comment."""


_LISTS: Final = ("paths", "secrets", "environment")


def render(name: str, lines: Sequence[Line], notes: Iterable[str] = ()) -> str:
    """The file. Ends with a newline."""
    out = [f"# Learned policy of the extension {safe_text(name, 80)}.", *_TOP, ""]
    live = [line for line in lines if not line.is_wish]
    wishes = [line for line in lines if line.is_wish]
    out += _block(live)
    if wishes:
        out += [
            "",
            "# Wanted, and not granted by today's policy: nothing of it holds until the mark is removed.",
        ]
        out += [f"# {text}" for text in _block(wishes)]
    said = [f"# - {_one_line(note)}" for note in notes]
    if said:
        out += ["", "# To know:", *said]
    return "\n".join(out) + "\n"


def _block(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        if line.key.partition(".")[0] not in _SECTIONS:
            yield from _top(line)
    for section in _SECTIONS:
        inside = [line for line in lines if line.key.startswith(f"{section}.")]
        if inside:
            yield f"{section}:"
        for line in inside:
            (item,) = line.items
            yield _commented(f"  {line.key.partition('.')[2]}: {item.text}", item)


def _top(line: Line) -> Iterator[str]:
    is_list = line.within or line.key in _LISTS
    if not is_list or (len(line.items) == 1 and line.items[0].text in ("[]", "none", "{}")):
        (item,) = line.items
        yield _commented(f"{line.key}: {item.text}", item)
        return
    granted = [item for item in line.items if not item.is_wish or line.is_wish]
    wished = [item for item in line.items if item.is_wish and not line.is_wish]
    empty = "[]" if line.key in ("paths", "secrets") else ""
    yield f"{line.key}:" + (f" {empty}" if not granted and empty else "")
    indent = "  "
    if line.within:
        yield f"  {line.within}:"
        indent = "    "
    dash = "" if line.key == "environment" else "- "
    for item in granted:
        yield _commented(f"{indent}{dash}{item.text}", item)
    for item in wished:
        yield _commented(f"{indent}# {dash}{item.text}", item)


def _commented(text: str, item: Item) -> str:
    said = f"{item.basis}: {item.said}" if item.basis is not Basis.KEPT else item.said
    return f"{text:<{_COLUMN}} # {_one_line(said)}"


def _one_line(text: str) -> str:
    return safe_text(text, _COMMENT)


# -- figures for people ----------------------------------------------------------------------------------------------


def size(nbytes: int) -> str:
    """``325.1 MiB``."""
    value = float(nbytes)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def seconds(value: float) -> str:
    """``1.25 s``."""
    return f"{value:.2f} s"


def once(count: int) -> str:
    """``once``, ``3 times``."""
    return "once" if count == 1 else f"{count} times"


def counted(count: int, word: str) -> str:
    """``1 route``, ``3 routes``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
