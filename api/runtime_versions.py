"""Which known escapes the container runtimes of a machine are open to, by their versions.

A short list kept by hand, checked last on ``CHECKED``; it is no scanner. Distributions mend old versions without
changing the upstream number (Debian: ``1.1.5+ds1-1+deb12u1``), so a Debian version is compared in Debian's order with
the versions that Debian mended; every other one with the upstream releases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

CHECKED: Final = "2026-11-26"


@dataclass(frozen=True, slots=True)
class Escape:
    """A way out of a container, and where it was closed."""

    cve: str
    component: str
    what: str
    upstream: tuple[str, ...]
    """The first good release of each branch; whatever is newer than the last is good."""
    debian: tuple[str, ...] = ()
    """Older upstream versions that Debian mended."""


KNOWN: Final = (
    Escape("CVE-2019-5736", "runc", "overwrites runc from inside", ("1.0.0",)),
    Escape("CVE-2019-14271", "engine", "code loaded by 'docker cp'", ("19.03.1",)),
    Escape("CVE-2022-23648", "containerd", "an image reads files of the host", ("1.4.13", "1.5.10", "1.6.1")),
    Escape("CVE-2024-21626", "runc", "a leaked descriptor", ("1.1.12",), ("1.1.5+ds1-1+deb12u1",)),
    Escape(
        "CVE-2024-25621",
        "containerd",
        "directories that others may read",
        ("1.7.29", "2.0.7", "2.1.5", "2.2.0"),
        ("1.6.20~ds1-1+deb12u2",),
    ),
    Escape(
        "CVE-2024-40635",
        "containerd",
        "a very large uid becomes root",
        ("1.6.38", "1.7.27", "2.0.4"),
        ("1.6.20~ds1-1+deb12u2",),
    ),
    Escape("CVE-2025-31133", "runc", "a masked path swapped at the start", ("1.2.8", "1.3.3", "1.4.0")),
    Escape("CVE-2025-52565", "runc", "a console path swapped at the start", ("1.2.8", "1.3.3", "1.4.0")),
    Escape("CVE-2025-52881", "runc", "writes to /proc led astray at the start", ("1.2.8", "1.3.3", "1.4.0")),
    Escape("CVE-2023-7258", "gvisor", "mounts that stop its kernel", ("20240729",)),
)


def open_to(versions: Mapping[str, str]) -> list[Escape]:
    """The known escapes that these versions (``runc``, ``containerd``, ``engine``, ``gvisor``) have not closed."""
    return [
        known
        for known in KNOWN
        if known.component in versions and not closes(versions[known.component], known)
    ]


def closes(version: str, known: Escape) -> bool:
    """Whether ``version`` of the component is mended; a version that cannot be read is not."""
    if known.component == "gvisor":
        day = re.search(r"20\d{6}", version)
        return day is not None and day[0] >= known.upstream[0]
    number = _upstream(version)
    if not number:
        return False
    for mended in known.debian:
        # A Debian package of that very upstream version: from this revision on.
        if _upstream(mended) == number and "-" in version:
            return debian_order(version, mended) >= 0
    releases = [_upstream(release) for release in known.upstream]
    if re.search(r"[-~]rc", version):
        number = (*number[:-1], number[-1] - 1) if number in releases else number
    return any(number[:2] == release[:2] and number >= release for release in releases) or number >= max(
        releases
    )


def debian_order(left: str, right: str) -> int:
    """-1, 0 or 1 as Debian orders two versions (deb-version(7)): digits by value, ``~`` before everything."""
    (left_epoch, left_rest), (right_epoch, right_rest) = _epoch(left), _epoch(right)
    if left_epoch != right_epoch:
        return 1 if left_epoch > right_epoch else -1
    for ours, theirs in zip_longest(_pieces(left_rest), _pieces(right_rest)):
        (our_word, our_number), (their_word, their_number) = ours or ("", 0), theirs or ("", 0)
        if our_word != their_word:
            return 1 if _weights(our_word) > _weights(their_word) else -1
        if our_number != their_number:
            return 1 if our_number > their_number else -1
    return 0


def _epoch(version: str) -> tuple[int, str]:
    epoch, colon, rest = version.partition(":")
    return (int(epoch), rest) if colon and epoch.isdigit() else (0, version)


def _pieces(version: str) -> list[tuple[str, int]]:
    found = re.findall(r"(\D*)(\d*)", version)
    return [(word, int(number or 0)) for word, number in found if word or number]


def _weights(word: str) -> list[int]:
    weights = [-1 if char == "~" else ord(char) if char.isalpha() else ord(char) + 256 for char in word]
    return [*weights, 0]  # the end of a word comes after '~' and before all else


def _upstream(version: str) -> tuple[int, ...]:
    found = re.match(r"(?:\d+:)?v?(\d+(?:\.\d+)+)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()
