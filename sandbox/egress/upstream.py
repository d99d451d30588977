"""The operator's own proxy between this machine and the internet, used only when a setting names it.

It is asked for the address that was checked, never for the name: who resolves decides where a connection goes.
"""

from __future__ import annotations

import base64
from typing import Final
from urllib.parse import unquote, urlsplit

import anyio
import h11
from anyio.abc import ByteStream

from sandbox.egress.streams import PIECE, ReturnedStream

_HEAD: Final = 16 * 1024


class UpstreamProxyConnector:
    """Connects through ``http://[user:password@]host:port``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or not parts.port or parts.path not in ("", "/"):
            raise ValueError("an upstream proxy is written http://host:port")
        self._host, self._port = parts.hostname, parts.port
        self._headers: list[tuple[str, str]] = []
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers = [("Proxy-Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")]

    async def connect(self, address: str, port: int) -> ByteStream:
        """See ``Connector``."""
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        stream = await anyio.connect_tcp(self._host, self._port)
        try:
            return await self._ask(stream, shown)
        except h11.RemoteProtocolError:
            await stream.aclose()
            raise OSError("the operator's proxy does not speak HTTP") from None
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            await stream.aclose()
            raise OSError("the operator's proxy hung up") from None
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    async def _ask(self, stream: ByteStream, shown: str) -> ByteStream:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
        request = h11.Request(method="CONNECT", target=shown, headers=[("Host", shown), *self._headers])
        await stream.send(connection.send(request) or b"")
        await stream.send(connection.send(h11.EndOfMessage()) or b"")
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive(PIECE))
            elif isinstance(event, h11.Response):
                if not 200 <= event.status_code < 300:
                    raise OSError(f"the operator's proxy answered {event.status_code}")
                return ReturnedStream(stream, bytes(connection.trailing_data[0]))
