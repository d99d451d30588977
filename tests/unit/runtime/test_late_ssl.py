"""What a worker does not import before somebody needs it, and that it is as it always is from then on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LATE = """
import sys
sys.path.insert(0, {root!r})
from runtime import late_ssl
late_ssl.import_asyncio()
import asyncio, json, socket
there = lambda: "ssl" in sys.modules
"""
#: Both ends in one loop, without a certificate: what is asked is whether asyncio can, not whom it trusts.
ENCRYPTED = """
async def main():
    import ssl
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    for context in (server, client):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    async def echo(reader, writer):
        writer.write(await reader.readexactly(300_000))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    listening = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        writer.write(bytes(300_000))
        back = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
    again = asyncio.sslproto.SSLAgainErrors == (ssl.SSLWantReadError, ssl.SSLSyscallError)
    print(json.dumps([len(back), again, asyncio.base_events.ssl is ssl]))
asyncio.run(main())
"""
REFUSED = """
async def main():
    async def garbage(reader, writer):
        await reader.read(65536)
        writer.write(b"this is no TLS " * 100)
        await writer.drain()
        writer.close()
    listening = await asyncio.start_server(garbage, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        before = there()
        try:
            await asyncio.open_connection("127.0.0.1", port, ssl=True)
        except Exception as error:
            print(json.dumps([before, there(), isinstance(error, sys.modules["ssl"].SSLError)]))
asyncio.run(main())
"""
PLAIN = """
async def main():
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    one.setblocking(False), two.setblocking(False)
    await loop.sock_sendall(one, b"x")
    got = await loop.sock_recv(two, 1)
    one.close(), two.close()
    import ssl as real
    print(json.dumps([got.decode(), hasattr(real, "SSLContext"), isinstance(real, late_ssl.LateModule)]))
print(json.dumps(there()))
asyncio.run(main())
"""


def run(program: str) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", LATE.format(root=str(ROOT)) + program],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_encrypted_connection_works_as_always() -> None:
    assert run(ENCRYPTED) == [[300_000, True, True]]


def test_asyncio_imports_ssl_when_it_is_asked_for_an_encrypted_connection() -> None:
    assert run(REFUSED) == [[False, True, True]]


def test_plain_sockets_bring_no_ssl_along_and_whoever_imports_it_gets_it() -> None:
    assert run(PLAIN) == [False, ["x", True, False]]


def test_where_asyncio_is_imported_already_nothing_changes() -> None:
    program = "import asyncio, asyncio.base_events as b; late_ssl.import_asyncio(); print(json.dumps(b.ssl.__name__))"
    assert run(program) == ["ssl"]


def test_a_worker_imports_nothing_that_only_some_packs_need() -> None:
    costly = ("ssl", "hashlib", "_hashlib", "tempfile", "shutil", "bz2", "lzma", "platform", "importlib.abc")
    program = "import runtime.worker, runtime.compat._standins\n"
    program += f"print(json.dumps([name for name in {costly!r} if name in sys.modules]))"
    assert run(program) == [[]]
