"""Who is asking: turns the request's token, or its browser's session, into a tenant or the operator.

Single-user mode (no tenant was ever created): everybody who passed the guard's Host and Origin checks is the operator
and acts for ``local``. With tenants: a tenant's token acts for that tenant only; the operator's token acts for the
tenant that ``X-Ringfence-Tenant`` names (``local`` without it). What a token may do is said by its scopes, and which
route needs which scope by api/permissions.py.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine import ALL_SCOPES, Scope, Session, Token, hash_secret
from policies import LOCAL_TENANT, RingfenceError, TenantId, parse_tenant_id

TENANT_HEADER = b"x-ringfence-tenant"
MIN_OPERATOR_TOKEN = 32


class AuthError(RingfenceError):
    """The request proves nobody's identity."""

    code = "unauthorized"


class ForbiddenError(RingfenceError):
    """The caller is known and may not do this."""

    code = "forbidden"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose request this is, and how it was proved."""

    tenant: TenantId
    is_operator: bool
    scopes: frozenset[Scope] = frozenset()
    token_sha256: str = ""
    """The hash of the token that proved it; "" in single-user mode and for whoever proved nothing."""
    session_sha256: str = ""
    """The hash of the session's secret, if a browser sent its cookie."""
    token_name: str = ""
    """The name of a tenant's token that proved it."""

    def require_operator(self) -> None:
        """Raises: ForbiddenError for a mere tenant."""
        if not self.is_operator:
            raise ForbiddenError("this needs the operator's token", hint="ask whoever runs this server")


NOBODY = Identity(LOCAL_TENANT, is_operator=False)
"""Who proved nothing: good for the routes that are open to all, and for no other."""
_SINGLE_USER = Identity(LOCAL_TENANT, is_operator=True, scopes=ALL_SCOPES)


class _Tenants(Protocol):
    async def is_single_user(self) -> bool: ...
    async def exists(self, name: TenantId) -> bool: ...
    async def authenticate(self, secret: str) -> Token | None: ...


async def identify(
    tenants: _Tenants, operator_token: str, *, authorization: str | None, wanted_tenant: str | None
) -> Identity:
    """Who sends this ``Authorization`` header.

    Raises:
        AuthError: a token is needed and missing or wrong.
        ForbiddenError: the token is not that tenant's, or there is no such tenant.
    """
    wanted = parse_tenant_id(wanted_tenant) if wanted_tenant else None
    if await tenants.is_single_user():
        if wanted not in (None, LOCAL_TENANT):
            raise ForbiddenError(
                f"there is no tenant '{wanted}': this server runs in single-user mode",
                hint="create it first: ringfence tenant create NAME",
            )
        return _SINGLE_USER
    token = _bearer(authorization)
    if token is None:
        raise AuthError(
            "this server needs a token",
            hint="send 'Authorization: Bearer TOKEN' (or HTTP Basic with the token as password)",
        )
    if is_operators(token, operator_token):
        acting_for = wanted or LOCAL_TENANT
        if acting_for != LOCAL_TENANT and not await tenants.exists(acting_for):
            raise ForbiddenError(f"there is no tenant '{acting_for}'", hint="see them: ringfence tenant list")
        return Identity(acting_for, is_operator=True, scopes=ALL_SCOPES, token_sha256=hash_secret(token))
    found = await tenants.authenticate(token)
    if found is None:
        raise AuthError("the token is not valid", hint="it may have been rotated; ask for the new one")
    if wanted not in (None, found.tenant):
        raise ForbiddenError("the token belongs to another tenant", hint="leave the tenant out")
    return Identity(
        found.tenant,
        is_operator=False,
        scopes=found.scopes,
        token_sha256=found.token_sha256,
        token_name=found.name,
    )


def of_session(session: Session, operator_token: str) -> Identity:
    """Who a browser's session is: what its token is, for its own tenant (the operator: ``local``)."""
    if session.token is None:
        proof = hash_secret(operator_token)
        return Identity(LOCAL_TENANT, True, ALL_SCOPES, proof, session.secret_sha256)
    token = session.token
    return Identity(
        session.tenant, False, token.scopes, token.token_sha256, session.secret_sha256, token.name
    )


def is_operators(token: str, operator_token: str) -> bool:
    """True for the operator's token; takes as long for a near miss as for any other."""
    return hmac.compare_digest(hash_secret(token), hash_secret(operator_token))


def load_operator_token(configured: str | None, file: Path) -> str:
    """The configured token, else the kept one, else a new one that is kept.

    Raises:
        AuthError: the configured token is too short to be safe.
    """
    if configured is not None:
        if len(configured) < MIN_OPERATOR_TOKEN:
            raise AuthError(
                f"RINGFENCE_OPERATOR_TOKEN has {len(configured)} characters; at least {MIN_OPERATOR_TOKEN} are needed",
                hint="make one: openssl rand -hex 32",
            )
        return configured
    try:
        kept = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        kept = ""
    if len(kept) >= MIN_OPERATOR_TOKEN:
        return kept
    token = f"rfop_{secrets.token_urlsafe(32)}"
    file.unlink(missing_ok=True)
    # O_EXCL and 0600 from the first moment: no window in which others could read it.
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(token + "\n")
    return token


def _bearer(authorization: str | None) -> str | None:
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() == "basic":
        token = _password(token)
    elif scheme.lower() != "bearer":
        return None
    return token or None


def _password(pair: str) -> str:
    """The password of HTTP Basic, for clients that only take ``http://user:token@host``; "" if there is none."""
    try:
        plain = base64.b64decode(pair, validate=True).decode("utf-8")
    except ValueError:
        return ""
    return plain.partition(":")[2]
