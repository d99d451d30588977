"""Seeds, and what can be done to one: the part that a test run and the long run share."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Final

SEEDS: Final = Path(__file__).parent / "seeds"
LARGEST: Final = 64 * 1024
TOKENS: Final = (
    b"", b"\0", b"\n", b"\r\n", b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"-", b"--", b"../", b"/", b"%00",
    b"NaN", b"1e999", b"-1", b"null", b"true", b'"\\ud800"', b"\xff\xff\xff\xff", b"\0\0\0\1", b"\x7f\xff\xff\xff",
    b"__proto__", b"\xe2\x80\xae", b"\x1b[31m", b"\xc0\xaf", b"9" * 200, b"[" * 400, b"a" * 5000,
)  # fmt: skip


def seeds_of(target: str) -> dict[str, bytes]:
    """The kept seeds of a target, by the names of their files."""
    return {path.name: path.read_bytes() for path in sorted((SEEDS / target).iterdir())}


def keep(target: str, raw: bytes, why: str) -> Path:
    """Add a seed; the same bytes have the same name."""
    path = SEEDS / target / f"{why}-{hashlib.sha256(raw).hexdigest()[:12]}"
    path.write_bytes(raw)
    return path


def damaged(raw: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """``raw`` with some places changed."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(7):
            case 0 if raw:
                at %= len(raw)
                raw = raw[:at] + bytes([raw[at] ^ 1 << chance.randrange(8)]) + raw[at + 1 :]
            case 1:
                raw = raw[:at] + raw[at + chance.randrange(1, 64) :]
            case 2:
                raw = raw[:at] + chance.choice(TOKENS) + raw[at:]
            case 3:
                raw = raw[:at] + raw[max(0, at - chance.randrange(1, 64)) :]
            case 4:
                other = chance.choice(others)
                raw = raw[:at] + other[chance.randrange(len(other) + 1) :]
            case 5:
                raw = raw[:at]
            case _:
                raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
    return raw[:LARGEST]
