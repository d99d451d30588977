"""May this sandbox talk to that name? Pure: text from a hostile client in, a rule or a refusal out.

A host has one spelling here: a name in lower case, A-labels, no trailing dot; or an address as the standard library
prints it. Everything else that other programs would read as an address (``127.1``, ``0x7f000001``, ``2130706433``,
``[::0:1]``) is refused before any comparison, so no resolver is ever asked to be clever.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from policies import Destination

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")
_MAX_NAME: Final = 253


class RefusedError(Exception):
    """The sandbox may not do this. ``status`` is what its client is told; the text goes to log and client."""

    def __init__(self, why: str, *, status: int = 403) -> None:
        super().__init__(why)
        self.why = why
        self.status = status


class FailedError(RefusedError):
    """It was allowed, and did not work: the name, the other side, or a limit."""

    def __init__(self, why: str, *, status: int = 502) -> None:
        super().__init__(why, status=status)


@dataclass(frozen=True, slots=True)
class Target:
    """A host and a port, in their one spelling."""

    host: str
    """A name, or an address without brackets."""
    port: int

    @property
    def is_address(self) -> bool:
        """Whether there is nothing to look up."""
        return _is_address(self.host)

    @property
    def authority(self) -> str:
        """The host as it stands in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.authority}:{self.port}"


@dataclass(frozen=True, slots=True)
class Rules:
    """All that one sandbox may reach."""

    allowed: tuple[Destination, ...]
    source: str
    """The policy's line."""
    private: frozenset[Destination] = frozenset()
    """Those that the operator named, whose addresses need not be public; never a policy's."""

    def may_be_private(self, target: Target) -> bool:
        """Whether ``target`` is the operator's own."""
        return any(entry.allows(target.host, target.port) for entry in self.private)

    def decide(self, target: Target) -> str:
        """The entry that allows ``target``, and where it stands.

        Raises:
            RefusedError: there is none; the text names the line to write.
        """
        for entry in self.allowed:
            if entry.allows(target.host, target.port):
                return f"allowed by '{entry}' ({self.source})"
        ports = sorted(entry.port for entry in self.allowed if entry.host == target.host)
        near = f" (of this host: port {', '.join(map(str, ports))})" if ports else ""
        raise RefusedError(
            f"{target} is not in network.allow{near} ({self.source}); to allow it, add '{target}' there"
        )


def parse_host(text: str) -> str:
    """The host in its one spelling.

    Raises:
        RefusedError: it is an odd spelling of an address, or no host at all.
    """
    if not text.isascii():
        raise RefusedError("a name with letters beyond ASCII is sent as 'xn--...' (IDNA)", status=400)
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if _is_address(bare) and (":" in bare) == (bare != text):
        return bare
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if ":" in name or "[" in name or "]" in name or _NUMBER.match(labels[-1]):
        raise RefusedError(
            "this is an odd spelling of an address; write the name, or the address in plain form"
        )
    if len(name) > _MAX_NAME or not all(_LABEL.match(label) for label in labels):
        raise RefusedError("this is not a host name", status=400)
    return name


def parse_port(text: str) -> int:
    """A port number, written in decimal digits and nothing else.

    Raises:
        RefusedError: it is none.
    """
    if not _PORT.match(text) or int(text) > 65535:
        raise RefusedError("this is not a port", status=400)
    return int(text)


def parse_authority(text: str, *, default_port: int | None = None) -> Target:
    """``host:port`` of a CONNECT, of an absolute URL or of a Host header.

    Raises:
        RefusedError: user names, missing ports, addresses, whatever is not exactly that.
    """
    if "@" in text:
        raise RefusedError("a user name has no place before the host", status=400)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        if default_port is None:
            raise RefusedError("write the port too: host:port", status=400)
        return Target(parse_host(text), default_port)
    return Target(parse_host(host), parse_port(port))


def parse_url(text: str) -> tuple[Target, str]:
    """An absolute ``http://host[:port]/path?query`` to its target and the rest (origin form).

    Raises:
        RefusedError: another scheme, a user name, a fragment, control characters, no absolute URL.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() != "http":
        if scheme.lower() == "https":
            raise RefusedError(
                "https goes through CONNECT, so that it stays encrypted to the end", status=400
            )
        raise RefusedError("a proxy is asked with CONNECT host:port or with http://host/path", status=400)
    cut = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    target, path = parse_authority(rest[:cut], default_port=80), rest[cut:]
    if "#" in path:
        raise RefusedError("a fragment is not sent to a server", status=400)
    return target, path if path.startswith("/") else f"/{path}"


def same_authority(text: str, target: Target, *, default_port: int) -> bool:
    """Whether a Host header names exactly ``target``."""
    try:
        return parse_authority(text, default_port=default_port) == target
    except RefusedError:
        return False


def refused_addresses(addresses: Sequence[str], reasons: Sequence[str | None]) -> str | None:
    """The text of a refusal when any of a name's addresses is refused: one bad answer condemns them all."""
    for address, reason in zip(addresses, reasons, strict=True):
        if reason is not None:
            return f"its name leads to {address}, which is {reason}"
    return None


def _is_address(text: str) -> bool:
    """Whether ``text`` is an address in the one form that the standard library prints, without a zone."""
    try:
        return "%" not in text and str(ipaddress.ip_address(text)) == text
    except ValueError:
        return False
