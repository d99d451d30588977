"""Where a sandbox may connect to: `name:port`, `*.name:port` or `address:port`, in one spelling only.

A name stands in its plain form (lower-case ASCII, no trailing dot, two labels or more), an address in the form the
standard library prints, and the port is always written. So comparing is comparing text, and whoever checks a request
brings it into the same form with `plain_host` first. A wildcard is one label, as in TLS certificates: `*.example.org`
is `a.example.org`, and neither `example.org` nor `a.b.example.org`.

Pure: nothing is resolved here. What a name resolves to is checked at the connection, with `why_not_public`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from policies.errors import FieldError
from policies.text import safe_text

DESTINATIONS_LIMIT: Final = 64
ANY_DESTINATION: Final = "any"
"""In a ceiling: whatever an extension's file may name at all."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")  # what a resolver would read as the end of an IPv4 address

PRIVATE_NAMES: Final = frozenset(
    {
        "localhost", "localdomain", "local", "internal", "intranet", "private", "corp", "home", "lan", "arpa",
        "invalid", "onion", "alt",
    }
)  # fmt: skip
"""Last labels that mean this machine, its network, or nothing on the Internet; metadata services live below them."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# What `is_global` calls global and is not a host of the Internet, or is another address in disguise.
_DISGUISES: Final = tuple(
    (ipaddress.ip_network(text), why)
    for text, why in (
        ("64:ff9b::/96", "an IPv4 address in disguise"),
        ("64:ff9b:1::/48", "an IPv4 address in disguise"),
        ("2002::/16", "an IPv4 address in disguise (6to4)"),
        ("2001::/32", "an IPv4 address in disguise (Teredo)"),
        ("::/96", "an IPv4 address in disguise"),
        ("::ffff:0:0/96", "an IPv4 address in disguise"),
        ("::ffff:0:0:0/96", "an IPv4 address in disguise"),
        ("192.88.99.0/24", "a relay (6to4)"),
        ("100.64.0.0/10", "an address inside a provider's network"),
        ("168.63.129.16/32", "a metadata service"),
        ("fec0::/10", "an address of a private network"),
    )
)


@dataclass(frozen=True, slots=True, order=True)
class Destination:
    """One entry of an allowlist."""

    host: str
    """A name or an address in its plain form, without the wildcard."""
    port: int
    is_wildcard: bool = False
    """Any one label in front of `host`, and not `host` itself."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'*.' if self.is_wildcard else ''}{host}:{self.port}"

    def allows(self, host: str, port: int) -> bool:
        """Whether a request for `host` (in its plain form) and `port` is this one's."""
        if port != self.port:
            return False
        if not self.is_wildcard:
            return host == self.host
        label, dot, rest = host.partition(".")
        return bool(label and dot) and rest == self.host

    def covers(self, other: Destination) -> bool:
        """Whether everything `other` allows is allowed here as well."""
        return self == other or (not other.is_wildcard and self.allows(other.host, other.port))


def parse_destination(text: object) -> Destination:
    """Raises: FieldError, with what to write, unless `text` is a destination in its plain form."""
    form = "write 'name:port', such as 'api.example.com:443' or '*.example.org:443'"
    if not isinstance(text, str) or not 0 < len(text) <= 300:
        raise FieldError(f"{_shown(text)} is not a destination", form)
    if "/" in text or "@" in text:
        raise FieldError(f"{_shown(text)} is not a destination", f"{form}, without 'https://' and path")
    host, colon, port_text = text.rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise FieldError(f"{_shown(text)} has no port", f"write '{safe_text(_with_port(text), 100)}'")
    if not _PORT.match(port_text) or int(port_text) > 65535:
        raise FieldError(f"{_shown(text)} has no port from 1 to 65535", form)
    is_wildcard = host.startswith("*.")
    plain = plain_host(host[2:] if is_wildcard else host)
    destination = Destination(plain, int(port_text), is_wildcard)
    if is_wildcard and _as_address(plain) is not None:
        raise FieldError(f"{_shown(text)}: a wildcard stands before a name", form)
    if str(destination) != text:
        raise FieldError(f"{_shown(text)} is not in its plain form", f"write '{destination}'")
    return destination


def plain_host(text: str) -> str:
    """The host of a URL or allowlist entry in its one plain form: a public name or a public address.

    Raises: FieldError for what no allowlist can hold: private names and addresses, odd spellings of addresses,
    single labels, names that are not in ASCII.
    """
    shown = _shown(text)
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address = _as_address(bare)
    if address is not None:
        if (":" in bare) != (bare != text):
            raise FieldError(
                f"{shown} is not a host", "write an IPv6 address in brackets, '[2001:db8::1]:443'"
            )
        why = why_not_public(address)
        if why:
            raise FieldError(f"{shown} is {why}", "name a host of the Internet")
        return str(address)
    if not text.isascii():
        raise FieldError(f"{shown} is not in ASCII", "write its 'xn--' form, as your registrar shows it")
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if "*" in name:
        raise FieldError(f"{shown}: '*' stands for the whole first label only", "write '*.example.org:443'")
    if _NUMBER.match(labels[-1]):
        raise FieldError(
            f"{shown} is an odd spelling of an address", "write the name, or the address as '203.0.113.7'"
        )
    if len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise FieldError(
            f"{shown} is not a host name", "use letters, digits, '-' and '.', such as 'api.example.com'"
        )
    if any(label[2:4] == "--" and not label.startswith("xn--") for label in labels):
        raise FieldError(f"{shown} is not a host name", "'--' there is for names that begin with 'xn--'")
    if len(labels) < 2:  # "*.com" as well: the whole of a top-level domain is no allowlist
        raise FieldError(f"{shown} is one label only", "write a full name, such as 'api.example.com'")
    if labels[-1] in PRIVATE_NAMES:
        raise FieldError(f"{shown} is a name of a private network", "name a host of the Internet")
    return name


def why_not_public(address: Address) -> str | None:
    """What is wrong with connecting to `address` for a stranger's pack; None for a host of the Internet."""
    if address.is_loopback or address.is_unspecified:
        return "this machine"
    for network, why in _DISGUISES:
        if address.version == network.version and address in network:
            return why
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        return "an address of this link"
    if address.is_link_local:
        return "a link-local address, where metadata services are"
    if address.is_multicast:
        return "a multicast address"
    if address.is_private or address.is_reserved or not address.is_global:
        return "an address of a private network"
    return None


def uncovered(wanted: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The destinations of `wanted` that `allowed` (a ceiling) does not cover, in their order."""
    if ANY_DESTINATION in allowed:
        return ()
    caps = [parse_destination(text) for text in allowed]
    return tuple(text for text in wanted if not any(cap.covers(parse_destination(text)) for cap in caps))


def _as_address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _with_port(text: str) -> str:
    return f"[{text}]:443" if _as_address(text) is not None and ":" in text else f"{text.rstrip(':')}:443"


def _shown(value: object) -> str:
    return f"'{safe_text(value, 80)}'" if isinstance(value, str) else f"a {type(value).__name__}"
