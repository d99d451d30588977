"""A pack whose policy allows one host, in a real container: it reaches that host by the usual means, and nothing else.

The internet is played by servers on this machine's loopback: only the resolver and the connector are the tests' own.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import ByteStream

from sandbox import Places
from sandbox.egress import Attempt, EgressOffice, Vault, Verdict
from tests.contract.kit import World, in_docker, world
from tests.security.test_hostile_packs import pack
from tests.unit.egress.kit import PUBLIC, VALUE, Names, Net, internet, read_request, servers

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

HOSTS = ("api.example.com", "data.example.com")
DEFAULTS = "ceilings:\n  network: any\n  secrets: {API_KEY: 'api.example.com:443'}\n"
ALLOWED = """
network: {allow: ["api.example.com:443", "data.example.com:443", "plain.example.com:80"]}
secrets: [{name: API_KEY, host: "api.example.com:443", header: Authorization, format: "Bearer {}"}]
"""


@asynccontextmanager
async def online(
    tmp_path: Path, code: str, seen: list[bytes], policy: str = ALLOWED
) -> AsyncIterator[tuple[World, list[Attempt], Net]]:
    """A pack with a network, and servers that note what reaches them and answer with it."""
    far = await anyio.to_thread.run_sync(internet, HOSTS)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(cadata=far.certificate)
    secret = tmp_path / "secrets" / "local" / "API_KEY"
    secret.parent.mkdir(parents=True)
    secret.write_text(VALUE)
    secret.chmod(0o600)
    names = Names(dict.fromkeys((*HOSTS, "plain.example.com"), (PUBLIC,)))
    net, attempts = Net(), list[Attempt]()

    async def server(stream: ByteStream) -> None:
        head, body = await read_request(stream)
        seen.append(head + body)
        text = b"it said: " + head + body
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)

    def office(places: Places) -> EgressOffice:
        return EgressOffice(
            places,
            vault=Vault(tmp_path / "secrets"),
            resolver=names,
            connector=net,
            tls=trust,
            sink=attempts.append,
        )

    policies = {"default": DEFAULTS, "pack": policy}
    async with (
        servers(net, far, server, server),
        world(tmp_path, in_docker, policies=policies, egress=office) as at,
    ):
        at.shelf.write("pack", pack(code.replace("FAR", repr(far.certificate))))
        yield at, attempts, net


async def found(at: World) -> Any:
    result = await at.run("pack", "Attack")
    assert result.slots is not None
    return json.loads(result.slots[0][0].tree)


async def test_ordinary_clients_reach_the_allowed_hosts_through_the_usual_variables(tmp_path: Path) -> None:
    seen: list[bytes] = []
    code = """
import asyncio, json, ssl, urllib.request, aiohttp
def get(url, **more):
    with urllib.request.urlopen(url, timeout=60, **more) as answer:
        return answer.read().decode()
async def get_with_aiohttp(url):
    async with aiohttp.ClientSession(trust_env=True) as session, session.get(url) as answer:
        return await answer.text()
far = ssl.create_default_context(cadata=FAR)
key = {"Authorization": "Bearer " + os.environ["API_KEY"]}
found = json.dumps({
    "plain": get("http://plain.example.com/plain"),
    "end to end": get("https://data.example.com/data", context=far),
    "with secret": get(urllib.request.Request("https://api.example.com/v1", headers=key)),
    "posted": get(urllib.request.Request("https://api.example.com/v1", data=b"x" * 100000))[-100:],
    "aiohttp": asyncio.run(get_with_aiohttp("https://api.example.com/v2")),
})
"""
    async with online(tmp_path, code, seen) as (at, attempts, _):
        said = await found(at)
    assert "GET /plain " in said["plain"]
    assert "GET /data " in said["end to end"]
    assert "GET /v2 " in said["aiohttp"]
    assert said["posted"] == "x" * 100
    with_secret = [text for text in seen if b" /v" in text]
    assert len(with_secret) == 3
    assert all(f"Bearer {VALUE}".encode() in text for text in with_secret)
    assert VALUE not in json.dumps(said)
    assert [attempt.verdict for attempt in attempts] == [Verdict.ALLOWED] * 5
    assert {attempt.secret for attempt in attempts if "api." in attempt.target} == {"API_KEY"}


async def test_whatever_a_pack_tries_with_its_network_it_reaches_the_allowed_hosts_only(
    tmp_path: Path,
) -> None:
    seen: list[bytes] = []
    code = """
import json, urllib.request
def connect(address, family=socket.AF_INET, kind=socket.SOCK_STREAM, protocol=0):
    with socket.socket(family, kind, protocol) as s:
        s.settimeout(3)
        s.connect(address)
        return "connected"
def ask(text, path="/ringfence/egress/proxy.sock"):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(path)
        s.sendall(text.encode())
        return s.recv(4096).decode().split("\\r\\n")[0]
def get(url):
    return urllib.request.urlopen(url, timeout=60).status
def option(level, name):
    with socket.socket() as s:
        s.setsockopt(level, name, b"tls")
        return "set"
found = json.dumps({name: attempt(*what) for name, what in {
    "tcp": (connect, ("93.184.216.34", 443)),
    "gateway": (connect, ("172.17.0.1", 22)),
    "metadata": (connect, ("169.254.169.254", 80)),
    "tcp6": (connect, ("2606:4700:4700::1111", 443), socket.AF_INET6),
    "udp": (connect, ("8.8.8.8", 53), socket.AF_INET, socket.SOCK_DGRAM),
    "raw": (connect, ("8.8.8.8", 0), socket.AF_INET, socket.SOCK_RAW, 1),
    "sctp": (connect, ("127.0.0.1", 1), socket.AF_INET, socket.SOCK_STREAM, 132),
    "mptcp": (connect, ("127.0.0.1", 1), socket.AF_INET, socket.SOCK_STREAM, 262),
    "netlink": (socket.socket, 16, socket.SOCK_RAW, 0),
    "packet": (socket.socket, 17, socket.SOCK_RAW, 0),
    "vsock": (socket.socket, 40, socket.SOCK_STREAM, 0),
    "alg": (socket.socket, 38, 5, 0),
    "ktls": (option, 6, 31),
    "dns": (socket.getaddrinfo, "api.example.com", 443),
    "other name": (get, "https://evil.example.com/"),
    "other port": (get, "http://plain.example.com:8080/"),
    "address": (get, "http://169.254.169.254/latest/meta-data/"),
    "loopback of the host": (get, "http://127.0.0.1:8188/"),
    "raw connect": (ask, "CONNECT 127.0.0.1:22 HTTP/1.1\\r\\nHost: 127.0.0.1:22\\r\\n\\r\\n"),
    "engine": (ask, "GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n", "/var/run/docker.sock"),
    "write": (open, "/ringfence/egress/x", "w"),
    "unlink": (os.unlink, "/ringfence/egress/proxy.sock"),
    "forge": (open, "/ringfence/egress/ca.pem", "a"),
    "list": (os.listdir, "/ringfence/egress"),
    "interfaces": (socket.if_nameindex,),
}.items()})
"""
    async with online(tmp_path, code, seen) as (at, attempts, net):
        said = await found(at)
        logged = [
            line.text for info in at.manager.list() for line in await at.manager.logs(info.tenant, info.id)
        ]
    reached = {
        name for name, what in said.items() if what in ("'connected'", "'set'") or what.startswith("<")
    }
    assert reached == set(), said
    for name in ("udp", "raw", "sctp", "mptcp", "netlink", "packet", "vsock", "alg", "ktls"):
        assert "Operation not permitted" in said[name] or "Permission" in said[name], (name, said[name])
    for name in ("tcp", "gateway", "metadata", "tcp6"):
        assert "unreachable" in said[name] or "Cannot assign" in said[name], (name, said[name])
    assert "403" in said["other name"]
    assert "403" in said["raw connect"]
    assert "Read-only" in said["write"]
    assert "Error" in said["unlink"]
    assert "Error" in said["forge"]
    assert sorted(json.loads(said["list"].replace("'", '"'))) == ["ca.pem", "proxy.sock"]
    assert seen == []
    assert net.asked == []
    assert {attempt.verdict for attempt in attempts} == {Verdict.REFUSED}
    assert any("add 'evil.example.com:443' there" in text for text in logged)


async def test_the_value_of_a_secret_is_nowhere_in_its_sandbox(tmp_path: Path) -> None:
    code = """
import json
parts = ["sk-very-", "secret-0123456789"]
needle = "".join(parts).encode()
places = []
for root in ("/ringfence", "/app", "/tmp", "/run", "/etc", "/proc/self/environ", "/proc/1/environ", "/proc/1/cmdline"):
    for path in [root] if not os.path.isdir(root) else [os.path.join(d, f) for d, _, fs in os.walk(root) for f in fs]:
        try:
            if os.path.isfile(path) and needle in open(path, "rb").read(1 << 22):
                places.append(path)
        except OSError:
            pass
found = json.dumps({"places": places, "placeholder": os.environ["API_KEY"],
    "private": "PRIVATE KEY" in open("/ringfence/egress/ca.pem").read()})
"""
    seen: list[bytes] = []
    async with online(tmp_path, code, seen) as (at, _, _net):
        said = await found(at)
        container = (
            await anyio.run_process(["docker", "inspect", str(at.manager.list()[0].container)])
        ).stdout
    assert said["places"] == []
    assert said["placeholder"] == "ringfence-secret-API_KEY"
    assert not said["private"]
    assert VALUE.encode() not in container


async def test_a_sandbox_without_a_network_has_neither_socket_nor_bridge_nor_variables(
    tmp_path: Path,
) -> None:
    code = """
import json
found = json.dumps({
    "inet": attempt(socket.socket, socket.AF_INET),
    "directory": os.path.exists("/ringfence/egress"),
    "variables": [name for name in os.environ if "PROXY" in name.upper() or name.startswith("SSL_")],
})
"""
    async with online(tmp_path, code, [], policy="") as (at, _, _net):
        said = await found(at)
        inspected = await anyio.run_process(["docker", "inspect", str(at.manager.list()[0].container)])
    assert "not permitted" in said["inet"]
    assert not said["directory"]
    assert said["variables"] == []
    assert json.loads(inspected.stdout)[0]["HostConfig"]["NetworkMode"] == "none"


async def test_a_container_with_a_network_still_has_no_interface_but_loopback(tmp_path: Path) -> None:
    code = """
import json
found = json.dumps(sorted(line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]))
"""
    async with online(tmp_path, code, []) as (at, _, _net):
        assert "lo" in await found(at)
        inspected = await anyio.run_process(["docker", "inspect", str(at.manager.list()[0].container)])
    details = json.loads(inspected.stdout)[0]
    assert details["HostConfig"]["NetworkMode"] == "none"
    assert {name: item["IPAddress"] for name, item in details["NetworkSettings"]["Networks"].items()} in (
        {"none": ""},
        {},
    )


async def test_a_download_goes_on_while_a_node_holds_the_interpreter(tmp_path: Path) -> None:
    code = """
import json, re
program = "import urllib.request; print(urllib.request.urlopen('http://plain.example.com/x', timeout=60).status)"
child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
# One call into C that never lets go of the interpreter's lock, for longer than any download takes.
libc = ctypes.PyDLL(None)
began = time.monotonic()
while child.poll() is None and time.monotonic() - began < 60:
    libc.usleep(500000)
found = json.dumps([child.returncode, child.stdout.read()])
"""
    async with online(tmp_path, code, []) as (at, _, _net):
        assert await found(at) == [0, "200\n"]
