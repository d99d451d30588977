"""Where a sandbox may connect to and which secrets go along, as a file writes them and as a proxy reads them.

The spelling of a destination and what it allows is `network.py`; who may name what is decided in `ceilings.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from policies.errors import FieldError
from policies.fields import VariableName, shown
from policies.network import ANY_DESTINATION, DESTINATIONS_LIMIT, Destination, parse_destination
from policies.strict import Strict, listed

_DESTINATION_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": r"^(\*\.)?([a-z0-9.-]+|\[[0-9a-f:]+\]):[1-9][0-9]{0,4}$",
    "examples": ["api.example.com:443", "*.example.org:443"],
}


def _destination(value: object) -> str:
    return str(parse_destination(value))


def _exact_destination(value: object) -> str:
    destination = parse_destination(value)
    if destination.is_wildcard:
        raise FieldError(f"{shown(value)} is more than one host", "name the one host that the secret is for")
    if destination.port == 80:
        raise FieldError(
            f"{shown(value)} would carry the secret unencrypted", "write the port of HTTPS, ':443'"
        )
    return str(destination)


def check_destinations(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Raises: FieldError for a list that names something twice or is too long."""
    if len(entries) > DESTINATIONS_LIMIT:
        raise FieldError(f"{len(entries)} destinations are too many", f"write at most {DESTINATIONS_LIMIT}")
    for index, entry in enumerate(entries):
        if entry in entries[:index]:
            raise FieldError(f"'{entry}' is named twice", "keep one of the two")
    return entries


def _network_ceiling(value: object) -> object:
    if value == "none":
        return ()
    if value == ANY_DESTINATION:
        return (ANY_DESTINATION,)
    if not isinstance(value, list | tuple):
        raise FieldError(
            f"{shown(value)} is not a list of destinations", "write none, any, or a list of 'name:port'"
        )
    return tuple(value)


def _capped_destination(value: object) -> str:
    return ANY_DESTINATION if value == ANY_DESTINATION else str(parse_destination(value))


def _any_alone(entries: tuple[str, ...]) -> tuple[str, ...]:
    if ANY_DESTINATION in entries and len(entries) > 1:
        raise FieldError("'any' stands beside other destinations", "write 'any' alone, or remove it")
    return check_destinations(entries)


DestinationText = Annotated[str, BeforeValidator(_destination), WithJsonSchema(_DESTINATION_SCHEMA)]
ExactDestination = Annotated[str, BeforeValidator(_exact_destination), WithJsonSchema(_DESTINATION_SCHEMA)]
NetworkCeiling = Annotated[
    tuple[Annotated[str, BeforeValidator(_capped_destination)], ...],
    BeforeValidator(_network_ceiling),
    AfterValidator(_any_alone),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["none", ANY_DESTINATION]},
                {"type": "array", "maxItems": DESTINATIONS_LIMIT, "items": _DESTINATION_SCHEMA},
            ]
        }
    ),
]

_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z")
_FRAMING_HEADERS = frozenset(
    {
        "connection", "content-encoding", "content-length", "expect", "forwarded", "host", "keep-alive", "te",
        "trailer", "transfer-encoding", "upgrade", "via",
    }
)  # fmt: skip


def _header(value: object) -> str:
    form = "write a header of the request, such as 'Authorization' or 'X-Api-Key'"
    if not isinstance(value, str) or not _HEADER.match(value):
        raise FieldError(f"{shown(value)} is not a header name", form)
    if value.lower() in _FRAMING_HEADERS or value.lower().startswith("proxy-"):
        raise FieldError(f"'{value}' says where a request goes or ends", form)
    return value


def _secret_format(value: object) -> str:
    form = "write '{}' where the secret goes, such as 'Bearer {}'"
    if not isinstance(value, str) or not 2 <= len(value) <= 256:
        raise FieldError(f"{shown(value)} is not the value of a header", form)
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        raise FieldError(f"{shown(value)} has a character that a header cannot carry", form)
    if value.count("{}") != 1 or value.count("{") != 1 or value.count("}") != 1:
        raise FieldError(f"{shown(value)} has no '{{}}', or more than one brace", form)
    return value


HeaderName = Annotated[
    str,
    BeforeValidator(_header),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9-]{0,63}$"}),
]
SecretFormat = Annotated[
    str, BeforeValidator(_secret_format), WithJsonSchema({"type": "string", "pattern": r"^[^{}]*\{\}[^{}]*$"})
]


class Network(Strict):
    """Where the sandbox may connect to, through the host's proxy; it has no network of its own either way."""

    allow: Annotated[tuple[DestinationText, ...], BeforeValidator(listed), AfterValidator(check_destinations)]
    """`name:port` each; `*.name:port` for any one label in front. Empty: nowhere."""

    def __bool__(self) -> bool:
        return bool(self.allow)

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """The allowlist, ready to be asked."""
        return tuple(parse_destination(text) for text in self.allow)


def _network(value: Any) -> Any:
    if value == "none":
        return {"allow": ()}
    if isinstance(value, dict) and value.get("allow") == []:
        raise FieldError("the allowlist is empty", "write 'network: none', or name a destination")
    if isinstance(value, dict | Network):
        return value
    raise FieldError(
        "this is neither 'none' nor an allowlist", "write 'none' or '{allow: [\"api.example.com:443\"]}'"
    )


NetworkEntry = Annotated[
    Network,
    BeforeValidator(
        _network,
        json_schema_input_type=Literal["none"] | Network,
    ),
]


class Secret(Strict):
    """A value of the operator's that the proxy fills in on requests to one host; the sandbox never sees it."""

    name: VariableName
    """Of the operator's file with the value, and of the variable that holds the placeholder in the sandbox."""
    host: ExactDestination
    """The one `name:port` it is for; has to stand in `network` as well."""
    header: HeaderName
    """The request header that carries it."""
    format: SecretFormat = "{}"
    """The header's value, `{}` being the secret."""

    @property
    def destination(self) -> Destination:
        """The host, ready to be asked."""
        return parse_destination(self.host)


def _distinct_secrets(entries: tuple[Secret, ...]) -> tuple[Secret, ...]:
    if len(entries) > 32:
        raise FieldError(f"{len(entries)} secrets are too many", "write at most 32")
    names: set[str] = set()
    headers: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.name in names:
            raise FieldError(
                f"'{entry.name}' is named twice", "a secret is for one host; keep one of the two"
            )
        where = (entry.host, entry.header.lower())
        if where in headers:
            raise FieldError(f"two secrets are for '{entry.header}' at {entry.host}", "keep one of the two")
        names.add(entry.name)
        headers.add(where)
    return entries


Secrets = Annotated[tuple[Secret, ...], BeforeValidator(listed), AfterValidator(_distinct_secrets)]
