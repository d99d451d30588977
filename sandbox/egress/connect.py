"""From an allowed name to a connection: looked up once, every address checked, connected to the checked address.

Between check and connection no second look-up happens, so a name server that changes its answer (DNS rebinding) is
too late. ``Resolver`` and ``Connector`` are seams for tests and for the operator's own proxy; no setting, request or
policy chooses another resolver.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final, Protocol

import anyio
import anyio.to_thread
from anyio.abc import ByteStream

from sandbox.egress.addresses import refusal
from sandbox.egress.decision import FailedError, RefusedError, Target, refused_addresses
from sandbox.egress.limits import EgressLimits

_LOOKUPS: Final = 8
_MAX_ADDRESSES: Final = 16
_TRIED: Final = 4


class Resolver(Protocol):
    """Looks names up."""

    async def resolve(self, name: str) -> Sequence[str]:
        """Every address of ``name``.

        Raises:
            OSError: it has none.
        """


class Connector(Protocol):
    """Connects to addresses."""

    async def connect(self, address: str, port: int) -> ByteStream:
        """A connection to exactly that address.

        Raises:
            OSError: there is none to be had.
        """


class SystemResolver:
    """What the machine's own resolver says."""

    def __init__(self) -> None:
        # Of its own: slow look-ups of hostile names must not keep the host's other threads busy.
        self._threads = anyio.CapacityLimiter(_LOOKUPS)

    async def resolve(self, name: str) -> Sequence[str]:
        """See ``Resolver``."""
        # The dot keeps the machine's search domains out: 'intranet' must not become 'intranet.operator.example'.
        found = await anyio.to_thread.run_sync(
            lambda: socket.getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM),
            limiter=self._threads,
            abandon_on_cancel=True,
        )
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class DirectConnector:
    """The host's own network."""

    async def connect(self, address: str, port: int) -> ByteStream:
        """See ``Connector``."""
        return await anyio.connect_tcp(address, port)  # an address: nothing is looked up


async def reach(
    target: Target, resolver: Resolver, connector: Connector, limits: EgressLimits, *, private: bool = False
) -> tuple[ByteStream, str]:
    """A connection to ``target``, and the address it leads to; ``private``: it is the operator's own, wherever it is.

    Raises:
        RefusedError: one of its addresses is not public.
        FailedError: it cannot be looked up or connected to in time.
    """
    addresses = [target.host] if target.is_address else await _look_up(target.host, resolver, limits)
    why = None if private else refused_addresses(addresses, [refusal(address) for address in addresses])
    if why is not None:
        raise RefusedError(f"{target} is allowed, but {why}; only public addresses are connected to")
    problem = ""
    for address in addresses[:_TRIED]:
        try:
            with anyio.fail_after(limits.connect_s):
                return await connector.connect(address, target.port), address
        except TimeoutError:
            problem = f"no answer within {limits.connect_s:.0f} s"
        except OSError as error:
            problem = error.strerror or type(error).__name__
    raise FailedError(f"{target} could not be connected to: {problem}", status=504)


async def _look_up(name: str, resolver: Resolver, limits: EgressLimits) -> list[str]:
    try:
        with anyio.fail_after(limits.resolve_s):
            addresses = list(await resolver.resolve(name))
    except TimeoutError:
        raise FailedError(f"{name} was not found within {limits.resolve_s:.0f} s", status=504) from None
    except OSError as error:
        raise FailedError(f"{name} was not found: {error.strerror or type(error).__name__}") from None
    if not addresses:
        raise FailedError(f"{name} has no address")
    if len(addresses) > _MAX_ADDRESSES:
        raise FailedError(f"{name} has more than {_MAX_ADDRESSES} addresses")
    return addresses
