"""The floors that benchmarks are held against do what their names say."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil

from benchmarks import floors


def test_an_echo_waits_for_what_comes_before_it() -> None:
    waited: list[int] = []

    async def before() -> None:
        await asyncio.sleep(0)
        waited.append(len(waited))

    samples = asyncio.run(floors.unix_echo(3, before=before))
    assert (len(samples), len(waited)) == (3, 3 + floors.WARM_UP)


def test_the_third_process_writes_as_much_and_leaves_nothing(tmp_path: Path) -> None:
    script = floors.WRITE_PROCESS.replace("/dev/shm", str(tmp_path)).replace(
        "    print(flush=True)", "        print(os.fstat(file.fileno()).st_size, flush=True)"
    )
    assert script.count(str(tmp_path)) == 1

    async def written(nbytes: int) -> bytes:
        third = await asyncio.create_subprocess_exec(
            "python3", "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await third.communicate(f"{nbytes}\n".encode())
        return said

    assert int(asyncio.run(written((3 << 20) + 5))) == (3 << 20) + 5
    assert os.listdir(tmp_path) == []


def test_an_echo_after_writing_ends_its_processes() -> None:
    before = {child.pid for child in psutil.Process().children()}
    assert len(asyncio.run(floors.echo_after_writing(1 << 10, 3))) == 3
    assert {child.pid for child in psutil.Process().children()} <= before
