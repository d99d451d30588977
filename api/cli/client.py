"""Talking to a server: where it is, the token, and its answers turned into failures that say what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from api.cli.failure import Failure, Status

if TYPE_CHECKING:
    import httpx2

DEFAULT_URL = "http://127.0.0.1:8188"

UrlOption = Annotated[
    str, typer.Option("--url", envvar="RINGFENCE_URL", help="Where the server is.", show_default=True)
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="RINGFENCE_TOKEN", help="Token of a tenant or of the operator.", show_default=False
    ),
]
TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", envvar="RINGFENCE_TENANT", help="Act for this tenant.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@dataclass(frozen=True, slots=True)
class Server:
    """One server and who we are to it."""

    url: str
    token: str | None = None
    tenant: str | None = None

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return {**headers, "X-Ringfence-Tenant": self.tenant} if self.tenant else headers

    @property
    def websocket_url(self) -> str:
        """Where the event stream is."""
        return "ws" + self.url.removeprefix("http") + "/ws"

    def client(self, *, timeout_s: float | None = 60.0) -> httpx2.Client:
        """An HTTP client for it: no proxy to this machine itself, no redirect that would carry the token away."""
        import httpx2

        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        return httpx2.Client(
            base_url=self.url,
            headers=self.headers(),
            timeout=httpx2.Timeout(timeout_s, connect=10.0),
            trust_env=not local,
            follow_redirects=False,
        )

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        params: dict[str, Any] | None = None,
        allow: tuple[int, ...] = (),
    ) -> Any:
        """One request; returns the answer's JSON.

        Raises:
            Failure: no server, or an error answer whose status is not in ``allow``.
        """
        import httpx2

        with self.translated(), self.client() as client:
            response = client.request(
                method,
                path,
                params=params,
                content=json.dumps(body).encode() if body is not None else content,
                headers={"Content-Type": "application/json"} if body is not None else None,
            )
        if response.status_code >= 400 and response.status_code not in allow:
            raise failure_of(response.status_code, response.content)
        try:
            return json.loads(response.content) if response.content.strip() else None
        except ValueError:
            raise _not_ringfence(self.url) from None
        finally:
            del httpx2

    def stream(
        self,
        method: str,
        path: str,
        *,
        data: dict[str, str] | None = None,
        files: dict[str, Any] | None = None,
        body: Any = None,
    ) -> Iterator[dict[str, Any]]:
        """A request (a form, or a JSON ``body``) answered line by line; yields each line's JSON object.

        Raises:
            Failure: as ``call``.
        """
        with (
            self.translated(),
            self.client(timeout_s=None) as client,
            client.stream(
                method,
                path,
                data=data,
                files=files or None,
                content=json.dumps(body).encode() if body is not None else None,
                headers={"Content-Type": "application/json"} if body is not None else None,
            ) as response,
        ):
            if response.status_code >= 400:
                raise failure_of(response.status_code, response.read())
            for line in response.iter_lines():
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError:
                        raise _not_ringfence(self.url) from None

    def translated(self) -> _Translated:
        """Turns a transport's errors into failures, inside ``with``."""
        return _Translated(self.url)


class _Translated:
    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import httpx2

        if isinstance(error, (httpx2.InvalidURL, httpx2.UnsupportedProtocol)):
            raise Failure(
                Status.USAGE, f"'{self._url}' is not a URL", "write e.g. http://127.0.0.1:8188"
            ) from None
        if isinstance(error, httpx2.TransportError):
            raise unreachable(self._url, error) from None


def unreachable(url: str, error: BaseException) -> Failure:
    """No server answered."""
    return Failure(
        Status.UNREACHABLE,
        f"no server answers at {url} ({type(error).__name__})",
        "start it with 'make up' or 'ringfence serve', or name another with --url; 'ringfence doctor' looks for causes",
    )


def failure_of(status: int, body: bytes) -> Failure:
    """What an error answer means, in our shape or in ComfyUI's."""
    try:
        error = json.loads(body).get("error")
    except (ValueError, AttributeError):
        error = None
    if isinstance(error, dict):
        message, hint = str(error.get("message", "")), str(error.get("hint") or error.get("details") or "")
        if error.get("file"):
            message = f"{error['file']}:{error.get('line', 0)}: {message}"
    else:
        message, hint = str(error) if isinstance(error, str) else f"the server answered {status}", ""
    if status in (401, 403):
        return Failure(Status.AUTH, message, hint or "pass --token, or set RINGFENCE_TOKEN")
    if status in (400, 413):
        return Failure(Status.REJECTED, message, hint)
    return Failure(Status.FAILED, message, hint)


def _not_ringfence(url: str) -> Failure:
    return Failure(Status.UNREACHABLE, f"what answers at {url} is not Ringfence", "check --url")


def server(url: str, token: str | None, tenant: str | None = None) -> Server:
    """The server that the options name."""
    url = url.rstrip("/")
    if urlsplit(url).scheme not in ("http", "https"):
        raise Failure(Status.USAGE, f"'{url}' is not a URL", "write e.g. http://127.0.0.1:8188")
    return Server(url, token or _token_from_file(), tenant)


def _token_from_file() -> str | None:
    """The token in the file that RINGFENCE_TOKEN_FILE names: a secret that stays out of process lists."""
    name = os.environ.get("RINGFENCE_TOKEN_FILE")
    if not name:
        return None
    try:
        return Path(name).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(Status.USAGE, f"RINGFENCE_TOKEN_FILE cannot be read: {error}") from None
