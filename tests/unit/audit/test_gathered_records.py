"""Records that follow others closely are written together, and nobody who asks for them waits for that."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sandbox import AuditReader, AuditWriter, Filter
from sandbox.audit import writer as module
from tests.unit.audit.test_audit_log import changed, everything

pytestmark = pytest.mark.usefixtures("every_fast_path")


@pytest.fixture
def writings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lines of each writing; the pause is longer than any test waits."""
    monkeypatch.setattr(module, "_GATHER_S", 600.0)
    monkeypatch.setattr(module, "_CLOSELY_S", 600.0)
    found: list[int] = []
    append = AuditWriter._append

    def seen(self: AuditWriter, piece: bytes) -> None:
        append(self, piece)
        found.append(piece.count(b"\n"))

    monkeypatch.setattr(AuditWriter, "_append", seen)
    return found


def test_what_follows_closely_is_written_when_somebody_asks_for_it(
    tmp_path: Path, writings: list[int]
) -> None:
    with AuditWriter(tmp_path / "audit-host", "host") as writer:
        writer.note(changed("first"))
        assert writer.flush(60)
        began = len(writings)
        for number in range(20):
            writer.note(changed(f"{number}"))
        assert writer.flush(60)
        assert sum(writings[began:]) == 20
        assert len(writings) - began <= 2
    assert everything(tmp_path) == ["first", *map(str, range(20))]
    assert all(not verdict.broken for verdict in AuditReader(tmp_path).verify())


def test_the_end_waits_for_no_pause(tmp_path: Path, writings: list[int]) -> None:
    writer = AuditWriter(tmp_path / "audit-host", "host")
    writer.open()
    writer.note(changed("first"))
    assert writer.flush(60)
    writer.note(changed("last"))
    ended = threading.Thread(target=writer.close, daemon=True)
    ended.start()
    ended.join(60)
    assert not ended.is_alive()
    found, _, _ = AuditReader(tmp_path).read(Filter(), limit=100)
    assert found[-1].text == "last"


def test_without_the_pause_each_is_written_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GATHER_S", 600.0)
    monkeypatch.setattr(module, "takes", lambda path: False)
    written = threading.Event()
    append = AuditWriter._append

    def seen(self: AuditWriter, piece: bytes) -> None:
        append(self, piece)
        if b"second" in piece:
            written.set()

    monkeypatch.setattr(AuditWriter, "_append", seen)
    with AuditWriter(tmp_path / "audit-host", "host") as writer:
        writer.note(changed("first"))
        assert writer.flush(60)
        writer.note(changed("second"))
        assert written.wait(60)
