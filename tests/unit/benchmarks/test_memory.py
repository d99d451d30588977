"""What processes weigh: each address space once, whoever runs in it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import memory


def test_a_process_that_is_named_twice_counts_once() -> None:
    one = memory.of_processes([os.getpid()])
    twice = memory.of_processes([os.getpid(), os.getpid()])
    assert twice < 1.5 * one


def test_processes_of_their_own_are_added() -> None:
    code = "import sys; held = bytearray(64 << 20); print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        assert memory.of_processes([os.getpid(), other.pid]) > memory.of_processes([os.getpid()]) + 60
        other.communicate()


def test_a_process_that_is_gone_is_an_error_and_no_zero() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(OSError, match="No such"):
        memory.of_processes([gone.pid])
