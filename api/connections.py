"""How many connections there may be: in all, of one address, and requests of one tenant at the same time.

A connection is counted from the moment it is accepted, whether anything was said on it or not, and as long as it is
one, also as a WebSocket. Nobody can take all places: one address and one tenant have a part of them.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from api.peers import peer_of
from policies import RingfenceError, TenantId

Refusal = Literal["server", "address"]


class TooManyRequestsError(RingfenceError):
    """A tenant has as many requests under way as it may have."""

    code = "too-many-requests"


class Place:
    """One connection's place; ``leave`` it once."""

    __slots__ = ("_book", "_group")

    def __init__(self, book: ConnectionBook, group: str) -> None:
        self._book: ConnectionBook | None = book
        self._group = group

    def leave(self) -> None:
        """The connection is gone; harmless when said twice."""
        if self._book is not None:
            self._book.left(self._group)
            self._book = None


class ConnectionBook:
    """The open connections of one server, by whose they are."""

    def __init__(self, most: int, most_of_address: int, proxies: Sequence[str] = ()) -> None:
        """``proxies`` are counted in all only: whoever stands there speaks for many."""
        self._most = most
        self._most_of_address = most_of_address
        self._proxies = [ipaddress.ip_network(text) for text in proxies]
        self._open: Counter[str] = Counter()
        self._all = 0

    def enter(self, client: tuple[str, int] | None) -> Place | Refusal:
        """A place for a new connection, or what there are too many of."""
        peer = peer_of({"client": client}, ())
        if self._all >= self._most:
            return "server"
        if self._open[peer.group] >= self._most_of_address and not self._is_proxy(peer.address):
            return "address"
        self._all += 1
        self._open[peer.group] += 1
        return Place(self, peer.group)

    def left(self, group: str) -> None:
        """A place is free again."""
        self._all -= 1
        self._open[group] -= 1
        if not self._open[group]:
            del self._open[group]

    def _is_proxy(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address.version == each.version and address in each for each in self._proxies)


class TenantRequests:
    """The requests that are being answered, by tenant."""

    def __init__(self, most: int, setting: str) -> None:
        self._most = most
        self._setting = setting
        self._open: Counter[TenantId] = Counter()

    def one(self, tenant: TenantId) -> UnderWay:
        """A request, from where this is entered to the end of its answer."""
        return UnderWay(self, tenant)

    def enter(self, tenant: TenantId) -> None:
        """One more.

        Raises:
            TooManyRequestsError: the tenant has too many under way.
        """
        if self._open[tenant] >= self._most:
            raise TooManyRequestsError(
                f"tenant '{tenant}' has {self._open[tenant]} requests under way, at most {self._most} "
                f"({self._setting})",
                hint="wait for answers before asking for more; WebSockets and event streams count",
            )
        self._open[tenant] += 1

    def leave(self, tenant: TenantId) -> None:
        """One less; once for each that entered."""
        self._open[tenant] -= 1
        if not self._open[tenant]:
            del self._open[tenant]


class UnderWay:
    """One request of a tenant."""

    __slots__ = ("_requests", "_tenant")

    def __init__(self, requests: TenantRequests, tenant: TenantId) -> None:
        self._requests = requests
        self._tenant = tenant

    def __enter__(self) -> None:
        self._requests.enter(self._tenant)

    def __exit__(self, *_: object) -> None:
        self._requests.leave(self._tenant)
