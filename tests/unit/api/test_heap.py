"""The server's objects are moved into huge pages, and memory that is hardly used is left as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from api import heap
from sandbox import take_fast_paths
from tests.huge_pages import makes_huge_pages

ROOT = Path(__file__).parents[3]
PROGRAM = f"""
import json, mmap, sys
sys.path.insert(0, {str(ROOT)!r})
from api.heap import move_into_huge_pages

def now(name):
    return int(open("/proc/self/smaps_rollup").read().split(name + ":")[1].split()[0])

full = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE)
full.write(b"x" * (32 << 20))
thin = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE)
for at in range(0, 64 << 20, 1 << 20):
    thin[at] = 1
before = now("Rss"), now("AnonHugePages")
move_into_huge_pages()
after = now("Rss"), now("AnonHugePages")
print(json.dumps([before, after, full[:] == b"x" * (32 << 20), sum(thin[::1 << 20])]))
"""


def test_what_is_full_is_moved_and_what_is_nearly_empty_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120
    )
    (rss_before, huge_before), (rss_after, huge_after), is_whole, thin = json.loads(done.stdout)
    assert is_whole
    assert thin == 64
    assert rss_after - rss_before < 16 * 1024, "64 MiB of which one page in 256 is used would be 64 MiB"
    if makes_huge_pages():
        assert huge_after - huge_before >= 16 * 1024


@pytest.mark.usefixtures("every_fast_path")
@pytest.mark.parametrize("why", ["the way is left out", "the kernel has none", "there is no /proc"])
def test_without_them_nothing_is_asked(why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(heap, "collapse_memory", lambda start, nbytes: asked.append((start, nbytes)))
    heap.move_into_huge_pages()
    assert asked or not makes_huge_pages()
    asked.clear()
    if why == "the way is left out":
        take_fast_paths(())
    elif why == "the kernel has none":
        monkeypatch.setattr(heap, "huge_page_size", lambda: 0)
    else:
        monkeypatch.setattr(heap, "_MAPS", tmp_path / "maps")
    heap.move_into_huge_pages()
    assert asked == []


@pytest.mark.anyio
async def test_it_is_done_in_a_thread_when_the_server_has_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    done = anyio.Event()
    here = anyio.lowlevel.current_token()
    monkeypatch.setattr(heap, "SETTLED_S", 0.01)
    monkeypatch.setattr(
        heap, "move_into_huge_pages", lambda: anyio.from_thread.run_sync(done.set, token=here)
    )
    heap.move_when_settled()
    assert not done.is_set()
    with anyio.fail_after(30):
        await done.wait()
