"""Sizes, durations and CPU shares as people write them in a policy, and back.

Strict on purpose: "512M" is 512,000,000 to some tools and 536,870,912 to others, and a cap nobody agrees on is
no cap. A refused value always comes with the spelling that would have been right.
"""

from __future__ import annotations

import math
import re

from policies.errors import FieldError
from policies.text import safe_text

MAX_BYTES = 2**53 - 1
"""Largest size: the last integer JSON readers agree on, and far beyond any machine."""

MAX_DURATION_S = 366 * 24 * 3600.0
MIN_CPUS = 0.05
MAX_CPUS = 1024.0

_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_MEANT = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,16})(\.[0-9]{1,6})?\s*([A-Za-z]*)\Z")


class UnitError(FieldError):
    """A value with a unit could not be read; `hint` says what to write instead."""


def parse_bytes(value: object) -> int:
    """Bytes from "512MiB", "2GiB", "64KiB", "0" or a plain number of bytes.

    Raises: UnitError for anything else.
    """
    examples = "write '512MiB', '2GiB' or a whole number of bytes"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UnitError(f"{_shown(value)} is not a size", examples)
    if isinstance(value, int):
        return _bounded_bytes(value, value)
    match = _NUMBER_AND_UNIT.match(value)
    if not match:
        raise UnitError(f"{_shown(value)} is not a size", examples)
    whole, fraction, unit = match.group(1), match.group(2), match.group(3)
    if unit not in _BINARY and not (unit == "" and not fraction):
        meant = _MEANT.get(unit[:1].lower())
        hint = f"write '{whole}{fraction or ''}{meant}'" if meant and not fraction else examples
        raise UnitError(f"{_shown(value)} has no unit this file knows (KiB, MiB, GiB, TiB)", hint)
    if fraction:
        nearest = round(float(whole + fraction) * _BINARY[unit])
        raise UnitError(f"{_shown(value)} is not a whole number", f"write '{format_bytes(nearest)}'")
    if value != whole + unit:
        raise UnitError(f"{_shown(value)} has a space in it", f"write '{whole}{unit}'")
    return _bounded_bytes(int(whole) * _BINARY.get(unit, 1), value)


def format_bytes(count: int) -> str:
    """The shortest exact spelling that `parse_bytes` reads back as `count`."""
    for unit, size in reversed(_BINARY.items()):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def parse_duration(value: object) -> float:
    """Seconds from "250ms", "30s", "2m" or "1h".

    Raises: UnitError for anything else; a bare number too, because nobody can see its unit.
    """
    examples = "write '250ms', '30s', '2m' or '1h'"
    if isinstance(value, bool):
        raise UnitError(f"{_shown(value)} is not a duration", examples)
    if isinstance(value, int | float):
        hint = f"write '{value}s' if you mean seconds" if isinstance(value, int) and value >= 0 else examples
        raise UnitError(f"{_shown(value)} has no unit", hint)
    match = _NUMBER_AND_UNIT.match(value) if isinstance(value, str) else None
    if not match:
        raise UnitError(f"{_shown(value)} is not a duration", examples)
    whole, fraction, unit = match.group(1), match.group(2), match.group(3)
    if unit not in _SECONDS:
        raise UnitError(f"{_shown(value)} has no unit this file knows (ms, s, m, h)", examples)
    if fraction:
        # Enough places that the suggestion means the same; it is only a suggestion.
        millis = round(float(whole + fraction) * _SECONDS[unit] * 1000)
        raise UnitError(f"{_shown(value)} is not a whole number", f"write '{format_duration(millis / 1000)}'")
    if value != whole + unit:
        raise UnitError(f"{_shown(value)} has a space in it", f"write '{whole}{unit}'")
    seconds = int(whole) * _SECONDS[unit] if unit != "ms" else int(whole) / 1000
    if seconds > MAX_DURATION_S:
        raise UnitError(f"{_shown(value)} is longer than a year", "write a shorter time")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest exact spelling of a whole number of milliseconds; `parse_duration` reads it back."""
    millis = round(seconds * 1000)
    if millis % 1000:
        return f"{millis}ms"
    whole = millis // 1000
    if whole and whole % 3600 == 0:
        return f"{whole // 3600}h"
    if whole and whole % 60 == 0:
        return f"{whole // 60}m"
    return f"{whole}s"


def parse_cpus(value: object) -> float:
    """CPUs as a plain number, from 0.05 up; 1.5 means one and a half cores' worth of time.

    Raises: UnitError for anything else.
    """
    examples = "write a number such as 0.5, 1 or 4"
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = examples
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}m", value):
            hint = f"write {format_cpus(int(value[:-1]) / 1000)}"
        raise UnitError(f"{_shown(value)} is not a number of CPUs", hint)
    if not math.isfinite(value) or not MIN_CPUS <= value <= MAX_CPUS:
        raise UnitError(f"{_shown(value)} CPUs is out of range ({MIN_CPUS} to {MAX_CPUS:.0f})", examples)
    return float(value)


def format_cpus(cpus: float) -> str:
    """`1` rather than `1.0`; otherwise the number as it stands."""
    return str(int(cpus)) if cpus == int(cpus) else str(cpus)


def _bounded_bytes(count: int, shown: object) -> int:
    if not 0 <= count <= MAX_BYTES:
        raise UnitError(f"{_shown(shown)} is out of range", "write a size from 0 to 8191TiB")
    return count


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f"'{safe_text(value, 60)}'"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"  # str() itself refuses numbers of thousands of digits
    return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
