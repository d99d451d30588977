"""The same for what reads requests: forms, headers that prove who is asking, and bodies of the v2 API.

They need an application, so they are made for one; each answer is JSON in the form of its routes, and no 5xx.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from anyio.from_thread import BlockingPortal

from tests.unit.api.attacked import Attacked
from tests.unit.fuzz.targets import Target

_INSIDE: Final = re.compile(rb"Traceback|site-packages|/root/|sqlalchemy|sqlite3")
_HOST: Final = (b"host", b"127.0.0.1:8188")
_WORDS: Final = re.compile(rb"[\x20-\x7e\x80-\xff]*")


def http_targets(at: Attacked, portal: BlockingPortal) -> dict[str, Target]:
    """By name; ``portal`` leads to the loop that the application lives in."""
    token = at.headers["every scope"]["Authorization"].encode()
    known = [_HOST, (b"authorization", token)]

    def ask(method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> int:
        status, said = portal.call(_asked, at.app, method, path, headers, body)
        assert status < 500, (status, said)
        assert not _INSIDE.search(said), said
        if status >= 400 and said:
            assert json.loads(said)["error"], said
        return status

    def multipart(raw: bytes) -> None:
        """A form of which the stranger wrote every byte, the boundary's line too."""
        kind, _, body = raw.partition(b"\n")
        headers = [
            *known,
            (b"content-type", b"".join(_WORDS.findall(kind))),
            (b"content-length", b"%d" % len(body)),
        ]
        for path in ("/upload/image", "/upload/mask", "/api/v2/assets", "/ringfence/v1/extensions"):
            ask("POST", path, headers, body)
        assert not [
            path for path in at.data.parent.rglob("*") if "pwned" in path.name and not _is_kept(at, path)
        ]

    def credentials(raw: bytes) -> None:
        """Lines of headers: nobody gets in who does not hold a token."""
        headers = [_HOST]
        for line in raw.split(b"\n"):
            name, _, value = line.partition(b":")
            if name.lower() in (
                b"authorization",
                b"cookie",
                b"x-ringfence-tenant",
                b"origin",
                b"sec-fetch-site",
            ):
                headers.append((name.lower(), b"".join(_WORDS.findall(value.strip()))))
        assert ask("GET", "/prompt", headers) in (400, 401, 403)
        assert ask("POST", "/interrupt", headers, b"{}") in (400, 401, 403)

    def v2_bodies(raw: bytes) -> None:
        """Jobs and assets of the v2 API."""
        headers = [*known, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))]
        ask("POST", "/api/v2/jobs", headers, raw)
        ask("POST", "/api/v2/assets/from-hash", headers, raw)
        ask(
            "POST", "/api/v2/jobs", [*headers, (b"idempotency-key", b"".join(_WORDS.findall(raw[:300])))], raw
        )

    return {each.__name__: each for each in (multipart, credentials, v2_bodies)}


def _is_kept(at: Attacked, path: Any) -> bool:
    return bool(
        path.is_relative_to(at.data / "tenants" / "t") or path.is_relative_to(at.data / "uploads" / "t")
    )


async def _asked(
    app: Any, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> tuple[int, bytes]:
    status, said, sent = 0, bytearray(), False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        said.extend(message.get("body", b""))

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": headers, "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 8188), "app": app, "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    return status, bytes(said)
