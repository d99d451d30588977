"""What a container writes outside the protocol, through the engine's attach stream.

The stream interleaves stdout and stderr in frames: one byte which, three zero, a big-endian u32 length, the bytes.
Only the end is kept: it is for the one case that nothing else explains, a worker that dies before it can speak.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Final

from policies import safe_text

log = logging.getLogger(__name__)

HEADER: Final = struct.Struct(">BxxxI")
STDOUT: Final = 1
STDERR: Final = 2
TAIL_BYTES: Final = 16 * 1024


class Tail:
    """The last bytes of something."""

    def __init__(self, limit: int = TAIL_BYTES) -> None:
        self._limit = limit
        self._bytes = bytearray()

    def add(self, piece: bytes) -> None:
        """Keep the end of what was there and ``piece``."""
        self._bytes += piece[-self._limit :]
        del self._bytes[: -self._limit]

    def text(self) -> str:
        """As safe text."""
        return safe_text(self._bytes.decode("utf-8", "replace").strip(), self._limit, newlines=True)


async def read_tail(attached: socket.socket, tail: Tail) -> None:
    """Follow an attach stream to its end, keeping the last of it."""
    reader, writer = await asyncio.open_unix_connection(sock=attached)
    try:
        while True:
            _, length = HEADER.unpack(await reader.readexactly(HEADER.size))
            while length:
                piece = await reader.read(min(length, 64 * 1024))
                if not piece:
                    return
                tail.add(piece)
                length -= len(piece)
    except (asyncio.IncompleteReadError, OSError) as error:
        log.debug("attach stream ended: %s", error)
    finally:
        writer.close()
