"""Which addresses a sandbox may be connected to: hosts of the public internet, and no other.

The answer of a name server is in the hands of whoever owns the name, so an allowed name must not become a way to the
operator's own machines. What an address is, the policies know; added here is what only matters for a connection: IPv6
is a list of what is allowed (global unicast), minus forms that carry an IPv4 address, since where such a packet comes
out depends on the network and not on us.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from policies import why_not_public

_GLOBAL_6: Final = ipaddress.IPv6Network("2000::/3")
_RESERVED_6: Final = tuple(
    ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20")
)
#: The middle of an ISATAP address, with and without the universal bit; an IPv4 address follows.
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})


def refusal(text: str) -> str | None:
    """Why nobody may be connected to the address ``text``; None when it is a public one."""
    if "%" in text:
        return "an address of this link"
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "not an address"
    if (why := why_not_public(address)) is not None:
        return why
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address not in _GLOBAL_6 or any(address in network for network in _RESERVED_6):
        return "not an address of the public internet"
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return "an IPv4 address in disguise (ISATAP)"
    return None
