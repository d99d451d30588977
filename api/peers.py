"""Where a request comes from: its address, and whether it came over TLS.

``X-Forwarded-For`` and ``X-Forwarded-Proto`` are whatever the sender writes, so they count only when the connection
comes from a reverse proxy that the operator named; ``X-Forwarded-Host`` never does (a proxy passes ``Host`` on).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

_UNKNOWN = ipaddress.ip_address("::")
_MOST_HOPS = 16
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end."""

    address: Address
    is_https: bool

    @property
    def group(self) -> str:
        """What counts as one visitor: an IPv4 address, or an IPv6 network of 64 bits, which one customer has."""
        if isinstance(self.address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((int(self.address) >> 64 << 64, 64)))
        return str(self.address)


def peer_of(scope: Scope, trusted: tuple[str, ...]) -> Peer:
    """The peer of a request, seen through the proxies that are trusted."""
    client = (scope.get("client") or ("",))[0]
    direct, is_trusted = _at_the_other_end(client, scope.get("scheme") in ("https", "wss"), trusted)
    if not is_trusted:
        return direct
    address, networks = direct.address, _networks(trusted)
    headers = Headers(scope=scope)
    is_https = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower() in ("https", "wss")
    # From the right: each proxy adds whom it saw, and left of the first stranger anything may have been made up.
    for hop in reversed(headers.get("x-forwarded-for", "").split(",")[-_MOST_HOPS:]):
        seen = _address(hop.strip())
        if seen is None:
            break
        address = seen
        if not _is_in(seen, networks):
            break
    return Peer(address, is_https)


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(1024)
def _at_the_other_end(client: str, is_https: bool, trusted: tuple[str, ...]) -> tuple[Peer, bool]:
    """Who is connected, as the kernel says it, so it is short, and whether that is a trusted proxy; what stands in a
    header is kept nowhere."""
    address = _address(client) or _UNKNOWN
    return Peer(address, is_https), _is_in(address, _networks(trusted))


@lru_cache(8)
def _networks(trusted: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in trusted)


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
