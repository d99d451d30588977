"""The protocol's byte stream: frames over two private descriptors.

End of file between frames, a stream that ends inside a frame, and a frame of impossible length are three cases.
"""

from __future__ import annotations

import io
import json
import os
import threading
from typing import Any, Final

from . import wire

_DECODER: Final = json.JSONDecoder()


class _Counted(io.FileIO):
    """Knows how much came."""

    count = 0

    def readinto(self, buffer: Any) -> int | None:
        got = super().readinto(buffer)
        self.count += got or 0
        return got


class FrameStream:
    """Reads frames from one descriptor and writes them to another (the same one, for a socket).

    One thread reads; any thread writes, a whole frame at a time.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self._write_fd = write_fd
        self._raw = _Counted(read_fd, "rb", closefd=False)
        self._reader = io.BufferedReader(self._raw, 256 * 1024)
        self._read = 0
        self._lock = threading.Lock()

    @property
    def has_more(self) -> bool:
        """Whether some of what follows the last message is here already, and not in the kernel's hands any more."""
        return self._raw.count != self._read

    def read(self) -> dict[str, Any] | None:
        """Return the next message, or None at a clean end.

        Raises:
            FrameTooLargeError: the announced length is zero or over the limit.
            TruncatedFrameError: the stream ended inside a frame.
            FrameError: the body is not a JSON object.
        """
        header = self._reader.read(wire.HEADER.size)
        if not header:
            return None
        if len(header) < wire.HEADER.size:
            raise wire.TruncatedFrameError(f"the stream ended after {len(header)} bytes of a frame's header")
        length = wire.frame_length(header)
        body = self._reader.read(length)
        self._read += wire.HEADER.size + length
        if len(body) < length:
            raise wire.TruncatedFrameError(f"the stream ended after {len(body)} of {length} bytes of a frame")
        try:
            message = _decoded(body.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise wire.FrameError(f"a frame of {length} bytes is not JSON: {error}") from error
        if not isinstance(message, dict):
            raise wire.FrameError("a frame holds no JSON object")
        return message

    def write(self, message: dict[str, Any], *, limit: int = wire.MAX_FRAME) -> None:
        """Send one message.

        Raises:
            FrameTooLargeError: it is longer than ``limit``; nothing was sent.
            OSError: the peer is gone.
        """
        self._write(wire.encode_frame(message, limit=limit))

    def write_text(self, text: str) -> None:
        """Send one message that is short JSON text already.

        Raises:
            OSError: the peer is gone.
        """
        body = text.encode()
        self._write(wire.HEADER.pack(len(body)) + body)

    def _write(self, frame: bytes) -> None:
        with self._lock:
            sent = os.write(self._write_fd, frame)
            if sent < len(frame):
                rest = memoryview(frame)[sent:]
                while rest:
                    rest = rest[os.write(self._write_fd, rest) :]


def _decoded(text: str) -> Any:
    """The JSON in ``text``; without a look for blanks around it, where there are none.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        value, end = _DECODER.raw_decode(text)
    except ValueError:
        return _DECODER.decode(text)
    return value if end == len(text) else _DECODER.decode(text)
