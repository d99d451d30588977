"""What a pack does while it is imported, before anything is asked of it: a typed error, and nothing lives on."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from sandbox import SandboxError
from tests.contract.kit import call, ignore
from tests.security.test_hostile_packs import FIND_SOCKET, beside_a_neighbour, one

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

HEAD = "import os, signal, sys, threading, time\n"
IMPORTS = {
    "leaves": "sys.exit(0)",
    "ends its process": "os._exit(0)",
    "ends its process from a thread": "threading.Thread(target=lambda: os._exit(9)).start()\ntime.sleep(60)",
    "leaves a child behind and ends": "if os.fork():\n    os._exit(0)\ntime.sleep(60)",
    "closes every descriptor": "os.closerange(0, 1024)\ntime.sleep(60)",
    "puts another file in the connection's place": FIND_SOCKET
    + "null = os.open('/dev/null', os.O_RDWR)\n[os.dup2(null, fd) for fd in fds]\ntime.sleep(60)",
    "shuts its connection": FIND_SOCKET
    + "import socket\n[socket.socket(fileno=fd).shutdown(2) for fd in fds]\ntime.sleep(60)",
    "ignores every signal and hangs": ""
    "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 10, 12, 15)]\ntime.sleep(600)",
    "recurses without end": "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "replaces what the worker is made of": "sys.modules.clear()\nraise RuntimeError",
    "answers the load itself": FIND_SOCKET + 'b = b\'{"jsonrpc":"2.0","id":99,"result":{}}\'\n'
    "os.write(fds[0], len(b).to_bytes(4, 'big') + b)\ntime.sleep(60)",
}


async def test_whatever_an_import_does_is_an_error_of_that_extension_and_nothing_of_it_lives_on(
    tmp_path: Path, isolation: str
) -> None:
    async with beside_a_neighbour(tmp_path, isolation, "first", "") as at:
        neighbour = await at.session("neighbour")
        for number, (name, body) in enumerate(IMPORTS.items()):
            extension = f"evil-{number}"
            at.policies.write(extension, f"isolation: {isolation}\ntimeouts: {{import: 2s}}\n")
            at.shelf.write(extension, HEAD + body)
            with anyio.fail_after(30), pytest.raises(SandboxError) as caught:
                await at.session(extension)
            assert f"'{extension}'" in str(caught.value), name
            assert one(await neighbour.execute(call("Answer"), ignore)) == 42, name
            assert [info.extensions for info in at.manager.list()] == [("neighbour",)], name
