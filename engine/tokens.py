"""What a tenant's token is: its scopes, its name, its life, and the hash that stands for it on disk.

A token is 256 random bits, shown once and stored as a SHA-256 hash: with that much entropy a slow hash would add
nothing, and every request pays for the check. Who has which tokens is in tenants.py; which route needs which scope is
the API's own table.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from policies import RingfenceError, TenantId, safe_text

FIRST_TOKEN = "main"  # noqa: S105 - a name
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")


class Scope(StrEnum):
    """What a token may do, for its own tenant only."""

    RUN = "run"
    """Queue, watch and cancel prompts, and read what is the tenant's."""
    UPLOAD = "upload"
    """Write files: inputs, user data, settings, assets."""
    ADMIN = "admin"
    """Extensions, sandboxes, tokens and sessions of the tenant."""


ALL_SCOPES = frozenset(Scope)


class TokenError(RingfenceError):
    """Root of what can be wrong with a token that is to be made or named."""

    code = "token-refused"


class TokenExistsError(TokenError):
    """The tenant has a token of that name."""

    code = "token-exists"


class TokenUnknownError(TokenError):
    """The tenant has no token of that name."""

    code = "token-unknown"


@dataclass(frozen=True, slots=True)
class Token:
    """One token, without its secret; times in ms since the epoch."""

    tenant: TenantId
    name: str
    token_sha256: str
    scopes: frozenset[Scope]
    issued_ms: int
    expires_ms: int | None = None
    used_ms: int | None = None

    def is_valid(self, now_ms: int) -> bool:
        """False once it has expired."""
        return self.expires_ms is None or now_ms < self.expires_ms


def parse_token_name(text: str) -> str:
    """The name of a token.

    Raises:
        TokenError: it does not fit.
    """
    if not _NAME.match(text):
        raise TokenError(
            f"'{safe_text(text, 80)}' cannot name a token",
            hint="use a-z, 0-9, '_' and '-', at most 32, beginning with a letter or figure",
        )
    return text


def parse_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Scopes by name.

    Raises:
        TokenError: one is unknown, or there is none.
    """
    given = set(names)
    wrong = sorted(given - {str(scope) for scope in Scope})
    if wrong or not given:
        what = f"'{safe_text(wrong[0], 80)}' is no scope" if wrong else "a token needs a scope"
        raise TokenError(what, hint=f"scopes are {', '.join(Scope)}")
    return frozenset(Scope(name) for name in given)


def scopes_text(scopes: Iterable[Scope]) -> str:
    """Scopes as one text, in order."""
    return " ".join(sorted(scopes))


def new_secret(prefix: str) -> str:
    """A secret of 256 random bits that says what it is."""
    return f"{prefix}{secrets.token_urlsafe(32)}"


def hash_secret(secret: str) -> str:
    """What of a secret is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
