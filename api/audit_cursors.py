"""Where a reader of the audit log goes on, in a form that tells a tenant nothing.

Records of all tenants are numbered together, so a plain place in the log says how busy the others are. The operator
gets it plain; a tenant gets it sealed: encrypted with a keystream of HMAC-SHA-512 under a fresh nonce, then
authenticated. The key comes from the operator's token, so a place outlives a restart and ends when that token is
replaced.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from api.auth import Identity
from sandbox import cursor_text, parse_cursor

MAX_CHARACTERS = 120
_NONCE, _TEXT, _TAG = 16, 48, 16


class AuditCursors:
    """Places in the log, written and read for one caller."""

    def __init__(self, operator_token: str, caller: Identity) -> None:
        self._whose = None if caller.is_operator else caller.tenant.encode()
        self._key = hmac.digest(operator_token.encode(), b"ringfence audit cursor", hashlib.sha512)

    @property
    def are_plain(self) -> bool:
        """Whether the caller may see the numbers of records."""
        return self._whose is None

    def write(self, cursor: dict[str, int]) -> str:
        """A place as the caller gets it."""
        text = cursor_text(cursor)
        if self._whose is None:
            return text
        nonce = secrets.token_bytes(_NONCE)
        body = _xor(text.encode().ljust(_TEXT), self._stream(nonce))
        return base64.urlsafe_b64encode(nonce + body + self._tag(nonce + body)).decode()

    def read(self, text: str) -> dict[str, int]:
        """The place that ``write`` wrote for this caller; empty for an empty text.

        Raises: ValueError
        """
        if self._whose is None or not text:
            return parse_cursor(text)
        try:
            raw = base64.urlsafe_b64decode(text.encode("ascii"))
        except ValueError:
            raw = b""
        sealed, tag = raw[:-_TAG], raw[-_TAG:]
        if len(sealed) != _NONCE + _TEXT or not hmac.compare_digest(tag, self._tag(sealed)):
            raise ValueError("that is no place in your part of the log")
        return parse_cursor(_xor(sealed[_NONCE:], self._stream(sealed[:_NONCE])).decode().rstrip())

    def _stream(self, nonce: bytes) -> bytes:
        return hmac.digest(self._key, b"stream" + nonce, hashlib.sha512)[:_TEXT]

    def _tag(self, sealed: bytes) -> bytes:
        return hmac.digest(self._key, b"tag" + sealed + (self._whose or b""), hashlib.sha256)[:_TAG]


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
