"""``Capture`` owns descriptors 1 and 2, so it is tried in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

_A_SLOW_PUMP = """
import os, sys, threading
said = os.fdopen(os.dup(1), "w")
from runtime.stdio import Capture

reading, settled, order = threading.Event(), threading.Event(), []

def send(stream, text, dropped):
    reading.set()
    settled.wait(0.5)  # the pump is held up with words it has taken out of the pipe
    order.append(text)

capture = Capture()
capture.start(send)
os.write(1, b"words")
assert reading.wait(30)
capture.settle()
order.append("the result")
settled.set()
said.write(",".join(order))
said.flush()
os._exit(0)
"""


def test_words_that_the_pump_has_taken_but_not_sent_arrive_before_the_result() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _A_SLOW_PUMP],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "words,the result", done.stderr
