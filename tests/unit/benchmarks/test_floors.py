"""The floors that benchmarks are held against do what their names say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import floors


def test_an_echo_comes_after_what_is_to_be_before_it_and_is_timed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(floors, "WARM_UP", 1)
    waited: list[int] = []

    async def before() -> None:
        await asyncio.sleep(0.3)
        waited.append(len(waited))

    samples = asyncio.run(floors.unix_echo(2, before=before))
    assert (len(samples), len(waited)) == (2, 3)
    assert min(samples) < 300


def test_an_echo_fails_with_what_comes_before_it() -> None:
    async def before() -> None:
        raise ConnectionError("the third is gone")

    with pytest.raises(ConnectionError, match="the third is gone"):
        asyncio.run(floors.unix_echo(1, before=before))


def test_the_third_process_writes_as_much_as_it_is_told() -> None:
    script = floors.WRITE_PROCESS.replace(
        "    print(flush=True)", "        print(os.fstat(file.fileno()).st_size, flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=f"{(3 << 20) + 5}\n1024\n",
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.split() == [str((3 << 20) + 5), "1024"]


def test_the_echoes_that_count_come_after_the_whole_amount_and_no_process_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    monkeypatch.setattr(
        floors,
        "WRITE_PROCESS",
        f"import sys\nfor line in sys.stdin:\n    open({str(asked)!r}, 'a').write(line)\n    print(flush=True)\n",
    )
    before = {child.pid for child in psutil.Process().children()}
    assert len(asyncio.run(floors.echo_after_writing(5000, 3))) == 3
    assert [int(line) for line in asked.read_text().split()] == [1 << 10] * (floors.WARM_UP - 2) + [5000] * 5
    assert {child.pid for child in psutil.Process().children()} <= before
