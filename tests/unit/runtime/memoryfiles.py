"""Shared files in a directory, for tests of values without a worker: what goes out can come in again."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from runtime import wire
from runtime.files import SharedFiles
from runtime.handles import HandleTable
from runtime.values import Decoder, Encoder
from tests.contract.worker.workerhost import FileStore


class Trip:
    """Both directions of the wire, with JSON in between."""

    def __init__(self, root: Path) -> None:
        self.store = FileStore(root)
        self.files = SharedFiles(
            str(self.store.inbox),
            str(self.store.outbox),
            allocate=lambda nbytes: (self.store.allocate(nbytes), 0),
            discard=self.store.discarded.append,
        )
        self.handles = HandleTable()

    def encoder(self, given: Container[str] = ()) -> Encoder:
        return Encoder(self.files, self.handles, given)

    def send(self, value: Any) -> Any:
        """The wire form, as the host has it after it took over the files."""
        frame = wire.encode_frame({"value": self.encoder().encode(value)})
        return self.store.adopt(json.loads(frame[wire.HEADER.size :])["value"])

    def receive(self, tree: Any) -> Any:
        return Decoder(self.files, self.handles).decode(tree)

    def there_and_back(self, value: Any) -> Any:
        return self.receive(self.send(value))
