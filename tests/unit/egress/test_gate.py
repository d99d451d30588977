"""The proxy of one sandbox over real sockets: what gets through, and everything that does not."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream

from sandbox.egress import EgressLimits, Verdict
from tests.unit.egress.kit import (
    PUBLIC,
    SECRET,
    VALUE,
    drain,
    head_of,
    inside,
    local_listener,
    port_of,
    read_request,
)

pytestmark = pytest.mark.anyio
FAST = EgressLimits(head_s=0.3, connect_s=0.3, resolve_s=0.3, idle_s=0.4)


async def test_plain_http_reaches_an_allowed_host_and_is_recorded_with_the_policys_line(
    tmp_path: Path,
) -> None:
    async with inside(tmp_path) as at:
        answer = await at.say(
            b"GET http://plain.example.com/x?y=1 HTTP/1.1\r\nHost: plain.example.com\r\n\r\n"
        )
        record = await at.next_attempt()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"get /x?y=1 http/1.1\r\nhost: plain.example.com\r\n" in answer.lower()
    assert (record.target, record.verdict, record.address) == (
        "plain.example.com:80",
        Verdict.ALLOWED,
        PUBLIC,
    )
    assert "policies/pack.yaml:3" in record.reason
    assert record.up > 0
    assert record.down > 0


async def test_a_tunnel_carries_tls_end_to_end(tmp_path: Path) -> None:
    async with inside(tmp_path) as at:
        stream = await at.tls()
        await stream.send(b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        answer = await drain(stream)
        await stream.aclose()
        record = await at.next_attempt()
    assert b"200 OK" in answer
    assert (record.method, record.target, record.verdict) == (
        "CONNECT",
        "api.example.com:443",
        Verdict.ALLOWED,
    )


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("CONNECT evil.example.com:443", 403),
        ("CONNECT api.example.com:22", 403),
        ("CONNECT api.example.com", 400),
        ("CONNECT 127.0.0.1:443", 403),
        ("CONNECT 169.254.169.254:80", 403),
        ("CONNECT 0x7f000001:443", 403),
        ("CONNECT 2130706433:443", 403),
        ("CONNECT [::1]:443", 403),
        ("CONNECT [::ffff:127.0.0.1]:443", 403),
        ("CONNECT user@api.example.com:443", 400),
        ("CONNECT api.example.com:443@evil.com:443", 400),
        ("CONNECT https://api.example.com:443/", 403),
        ("CONNECT /var/run/docker.sock:1", 400),
        ("GET /", 400),
        ("GET https://api.example.com/", 400),
        ("GET http://169.254.169.254/latest/meta-data/", 403),
        ("GET http://localhost/", 403),
        ("GET http://plain.example.com:8080/", 403),
        ("GET http://plain.example.com@evil.com/", 400),
        ("GET ftp://plain.example.com/", 400),
        ("OPTIONS *", 400),
        ("TRACE http://plain.example.com/", 405),
        ("get http://plain.example.com/", 400),
        ("GET http://plain.example.com/a\tb", 400),
    ],
)  # fmt: skip
async def test_a_request_for_anything_else_is_refused_and_nothing_is_looked_up(
    tmp_path: Path, head: str, status: int
) -> None:
    async with inside(tmp_path) as at:
        answer = await at.say(f"{head} HTTP/1.0\r\n\r\n".encode())
        record = await at.next_attempt()
        assert (at.names.asked, at.net.asked) == ([], [])
        assert at.remarks
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert record.verdict is Verdict.REFUSED


async def test_a_refusal_says_what_to_write_to_client_log_and_pack(tmp_path: Path) -> None:
    async with inside(tmp_path) as at:
        answer = await at.say(b"CONNECT evil.example.com:443 HTTP/1.1\r\nHost: evil.example.com:443\r\n\r\n")
        record = await at.next_attempt()
        text = "add 'evil.example.com:443' there"
        assert text in answer.decode()
        assert text in record.reason
        assert text in at.remarks[0]


@pytest.mark.parametrize(
    "head",
    [
        "GET http://plain.example.com/ HTTP/1.1\r\nHost: evil.com",
        "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nHost: evil.com",
        "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com:81",
        "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com, evil.com",
        "GET http://plain.example.com/ HTTP/1.1",
        "CONNECT api.example.com:443 HTTP/1.1\r\nHost: evil.com:443",
        "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\nContent-Length: 5",
        "GET http://plain.example.com HTTP/1.0\r\nContent-Length: 0\r\nTransfer-Encoding: chunked",
        "POST http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nContent-Length: 5\r\nContent-Length: 6",
        "POST http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nContent-Length: +5",
        "POST http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nTransfer-Encoding: xchunked",
        "POST http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nTransfer-Encoding: gzip, chunked",
        "POST http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nTransfer-Encoding : chunked",
        "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nX: a\x00b",
        "GET http://plain.example.com/ HTTP/2.0\r\nHost: plain.example.com",
        "GET  http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com",
    ],
)
async def test_a_request_that_two_readers_could_read_in_two_ways_is_refused(
    tmp_path: Path, head: str
) -> None:
    async with inside(tmp_path) as at:
        answer = await at.say(f"{head}\r\n\r\n".encode())
        assert at.net.asked == []
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501", b"HTTP/1.1 505")), answer


async def test_headers_for_the_proxy_itself_go_no_further(tmp_path: Path) -> None:
    async with inside(tmp_path) as at:
        answer = await at.say(
            b"GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nProxy-Authorization: Basic eA==\r\n"
            b"Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nUpgrade: h2c\r\nTE: trailers\r\nX-Kept: 1\r\n\r\n"
        )
    seen = answer.split(b"\r\n\r\n", 1)[1].lower()
    assert b"x-kept: 1" in seen
    for name in (b"proxy-authorization", b"x-hop", b"upgrade", b"te:", b"keep-alive"):
        assert name not in seen


async def test_what_follows_a_request_on_its_connection_is_not_read_as_another(tmp_path: Path) -> None:
    one = b"GET http://plain.example.com/1 HTTP/1.1\r\nHost: plain.example.com\r\n\r\n"
    async with inside(tmp_path) as at:
        answer = await at.say(one + one.replace(b"/1", b"/2") + b"CONNECT evil.com:443 HTTP/1.1\r\n\r\n")
        assert len(at.net.asked) == 1
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"/2" not in answer


@pytest.mark.parametrize("sni", ["evil.example.com", "example.com", "api.example.com.evil.com"])
async def test_a_tunnel_for_one_name_is_not_used_for_another(tmp_path: Path, sni: str) -> None:
    async with inside(tmp_path) as at:
        with pytest.raises((ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream)):
            await at.tls(sni=sni)
        record = await at.next_attempt()
    assert record.verdict is Verdict.REFUSED
    assert sni in record.reason
    assert record.up == 0


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x05\x02abcd", bytes(50)],
)
async def test_only_tls_goes_through_a_tunnel(tmp_path: Path, first: bytes) -> None:
    async with inside(tmp_path) as at:
        stream = await at.tunnel()
        await stream.send(first)
        assert await drain(stream) == b""
        record = await at.next_attempt()
    assert record.verdict is Verdict.REFUSED
    assert record.up == 0


async def test_a_hello_that_names_nobody_is_refused(tmp_path: Path) -> None:
    async with inside(tmp_path) as at:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        out = ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
        stream = await at.tunnel()
        await stream.send(out.read())
        assert await drain(stream) == b""
        assert (await at.next_attempt()).up == 0


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("10.0.0.1",), ("169.254.169.254",), ("::1",), ("::ffff:10.0.0.1",), ("64:ff9b::7f00:1",),
     (PUBLIC, "127.0.0.1"), (PUBLIC, "fd00:ec2::254"), ("fe80::1%eth0",), ("100.64.1.1", PUBLIC)],
)  # fmt: skip
async def test_an_allowed_name_is_no_way_to_an_address_that_is_not_public(
    tmp_path: Path, addresses: tuple[str, ...]
) -> None:
    async with inside(tmp_path, names={"api.example.com": addresses}) as at:
        answer = await at.say(b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n")
        record = await at.next_attempt()
        assert at.net.asked == []
    assert answer.startswith(b"HTTP/1.1 403")
    assert record.verdict is Verdict.REFUSED
    assert "only public addresses" in record.reason


async def test_a_name_that_changes_its_address_is_connected_to_the_one_that_was_checked(
    tmp_path: Path,
) -> None:
    async with inside(tmp_path, names={"plain.example.com": [(PUBLIC,), ("127.0.0.1",)]}) as at:
        request = b"GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n\r\n"
        assert b"200 OK" in await at.say(request)
        assert at.names.asked == ["plain.example.com"]
        assert at.net.asked == [(PUBLIC, 80)]
        assert b"403" in await at.say(request)
        assert at.net.asked == [(PUBLIC, 80)]


async def test_names_that_lead_nowhere_and_hosts_that_do_not_answer_are_failures_with_a_reason(
    tmp_path: Path,
) -> None:
    async with inside(tmp_path, allow=["gone.example.com:443", "api.example.com:444"]) as at:
        assert b"was not found" in await at.say(b"CONNECT gone.example.com:443 HTTP/1.0\r\n\r\n")
        assert (await at.next_attempt()).verdict is Verdict.FAILED
        assert b"could not be connected to" in await at.say(b"CONNECT api.example.com:444 HTTP/1.0\r\n\r\n")
        assert (await at.next_attempt()).verdict is Verdict.FAILED


async def test_a_redirect_to_another_host_is_an_answer_and_not_followed(tmp_path: Path) -> None:
    async def redirect(stream: ByteStream) -> None:
        await read_request(stream)
        await stream.send(
            b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
        )

    async with inside(tmp_path, http=redirect) as at:
        answer = await at.say(b"GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n\r\n")
        assert at.net.asked == [(PUBLIC, 80)]
    assert b"169.254.169.254" in answer


async def test_bodies_go_both_ways_with_a_length_in_chunks_and_after_100_continue(tmp_path: Path) -> None:
    url = b"POST http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n"
    async with inside(tmp_path) as at:
        assert (await at.say(url + b"Content-Length: 5\r\n\r\nhello")).endswith(b"hello")
        chunked = await at.say(url + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        assert chunked.endswith(b"5\r\nhello\r\n0\r\n\r\n")
        stream = await at.connect()
        await stream.send(url + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert b"100" in await head_of(stream)
        await stream.send(b"hello")
        assert (await drain(stream)).endswith(b"hello")
        await stream.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"",
    ],
)
async def test_an_answer_that_is_no_proper_answer_is_a_failure(tmp_path: Path, answer: bytes) -> None:
    async def bad(stream: ByteStream) -> None:
        await read_request(stream)
        await stream.send(answer)

    async with inside(tmp_path, http=bad) as at:
        found = await at.say(b"GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 502"), found[:200]
        assert (await at.next_attempt()).verdict is Verdict.FAILED


async def test_slow_and_silent_clients_are_ended(tmp_path: Path) -> None:
    async with inside(tmp_path, limits=FAST) as at:
        slow = await at.connect()
        await slow.send(b"GET http://plain.ex")
        assert b"408" in await drain(slow)
        silent = await at.tunnel()
        assert await drain(silent) == b""
        assert "hello" in [await at.next_attempt(), await at.next_attempt()][1].reason
        await slow.aclose()
        await silent.aclose()


async def test_a_connection_without_traffic_is_ended(tmp_path: Path) -> None:
    async def mute(stream: ByteStream) -> None:
        await drain(stream)

    async with inside(tmp_path, limits=FAST, https=mute) as at:
        stream = await at.tls()
        with anyio.fail_after(60):
            await drain(stream)
        assert "nothing was sent" in (await at.next_attempt()).reason
        await anyio.aclose_forcefully(stream)


async def test_half_a_connection_can_be_closed_and_the_other_half_goes_on(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def raw(stream: ByteStream) -> None:
        async with stream:
            seen.append(await drain(stream))
            await stream.send(b"late answer")

    listener = await local_listener()
    async with inside(tmp_path) as at, listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, raw)
        at.net.ports[443] = port_of(listener)
        out = ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            at.trust.wrap_bio(ssl.MemoryBIO(), out, server_hostname="api.example.com").do_handshake()
        stream = await at.tunnel()
        await stream.send(out.read())
        await stream.send_eof()
        with anyio.fail_after(60):
            received = b""
            while received != b"late answer":
                received += await stream.receive()
        await stream.aclose()
        group.cancel_scope.cancel()
    assert seen[0].startswith(b"\x16\x03")


async def test_a_flood_of_connections_is_turned_away_and_counted(tmp_path: Path) -> None:
    limits = EgressLimits(attempts_per_s=0.001, attempts_burst=3)
    async with inside(tmp_path, limits=limits) as at:
        answers = [await at.say(b"CONNECT evil.com:443 HTTP/1.0\r\n\r\n") for _ in range(12)]
        assert [answer[9:12] for answer in answers[:3]] == [b"403"] * 3
        assert all(answer[9:12] in (b"429", b"") for answer in answers[3:])
        assert len(at.attempts) == 12


async def test_open_connections_are_capped(tmp_path: Path) -> None:
    async with inside(tmp_path, limits=EgressLimits(connections=2)) as at:
        held = [await at.tunnel(), await at.tunnel()]
        assert (await at.say(b"CONNECT api.example.com:443 HTTP/1.0\r\n\r\n"))[9:12] in (b"429", b"")
        for stream in held:
            await anyio.aclose_forcefully(stream)
        for _ in held:
            while (await at.next_attempt()).method != "CONNECT":
                pass
        await anyio.aclose_forcefully(await at.tunnel())


@pytest.mark.parametrize(
    "limit", [{"sandbox_up": 2000}, {"sandbox_down": 2000}, {"tenant_up": 2000}, {"tenant_down": 2000}]
)
async def test_bytes_are_capped_per_sandbox_and_per_tenant(tmp_path: Path, limit: dict[str, int]) -> None:
    async with inside(tmp_path, limits=EgressLimits(**limit)) as at:
        body = b"x" * 5000
        await at.say(
            b"POST http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nContent-Length: 5000\r\n\r\n"
            + body
        )
        record = await at.next_attempt()
        assert record.verdict is Verdict.FAILED
        assert "the most it may" in record.reason
        again = await at.say(b"GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n\r\n")
        assert again[9:12] in (b"429", b"")


async def test_whoever_is_not_the_sandbox_is_turned_away(tmp_path: Path) -> None:
    async with inside(tmp_path, uid=os.getuid() + 1) as at:
        assert (await at.say(b"CONNECT api.example.com:443 HTTP/1.0\r\n\r\n"))[9:12] in (b"429", b"")
        assert "uid" in (await at.next_attempt()).reason
        assert at.names.asked == []


# -- secrets -------------------------------------------------------------------------------------------------------

GET = b"GET /v1/models HTTP/1.1\r\nHost: api.example.com\r\nAccept-Encoding: gzip\r\n"


async def test_a_secret_is_filled_in_on_the_way_out_and_cleared_on_the_way_back(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def careless(stream: ByteStream) -> None:
        head, _ = await read_request(stream)
        seen.append(head)
        body = b"you sent " + head
        await stream.send(
            b"HTTP/1.1 200 "
            + VALUE.encode()
            + b"\r\nX-Echo: "
            + VALUE.encode()
            + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        for at in range(0, len(body), 3):
            await stream.send(body[at : at + 3])

    async with inside(tmp_path, secret=SECRET, https=careless) as at:
        stream = await at.tls(ours=True)
        await stream.send(GET + b"Authorization: Bearer ringfence-secret-API_KEY\r\n\r\n")
        answer = await drain(stream)
        record = await at.next_attempt()
        files = [path.read_bytes() for path in at.bundle.parent.iterdir() if path.is_file()]
    assert seen[0].count(b"uthorization") == 1
    assert f"authorization: bearer {VALUE}".encode() in seen[0].replace(b"Bearer", b"bearer").replace(
        b"Authorization", b"authorization"
    )
    assert b"gzip" not in seen[0]
    assert b"you sent" in answer
    assert VALUE.encode() not in answer
    assert b"*" * len(VALUE) in answer
    assert (record.secret, record.method, record.verdict) == ("API_KEY", "GET", Verdict.ALLOWED)
    assert VALUE not in repr(record)
    assert not any(VALUE.encode() in content or b"PRIVATE KEY" in content for content in files)


async def test_a_packs_own_key_is_replaced_by_the_operators(tmp_path: Path) -> None:
    async with inside(tmp_path, secret=SECRET) as at:
        stream = await at.tls(ours=True)
        await stream.send(GET + b"Authorization: Bearer sk-of-the-attacker\r\nauthorization: x\r\n\r\n")
        answer = await drain(stream)
    assert b"200 OK" in answer
    assert b"attacker" not in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.example.com\r\n\r\n",
        b"GET https://evil.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        b"CONNECT evil.example.com:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_with_a_secret_only_requests_to_its_one_host_are_sent(tmp_path: Path, head: bytes) -> None:
    async with inside(tmp_path, secret=SECRET) as at:
        stream = await at.tls(ours=True)
        await stream.send(head)
        answer = await drain(stream)
        record = await at.next_attempt()
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505")), answer
    assert record.verdict is Verdict.REFUSED
    assert record.secret == ""
    assert VALUE.encode() not in answer


async def test_a_server_without_a_valid_certificate_gets_no_secret(tmp_path: Path) -> None:
    async with inside(tmp_path, secret=SECRET, certified=["other.example.com"]) as at:
        answer = await at.say(b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n")
        record = await at.next_attempt()
    assert answer.startswith(b"HTTP/1.1 502")
    assert "certificate" in record.reason


async def test_a_compressed_answer_to_a_secret_is_not_passed_on(tmp_path: Path) -> None:
    async def gzip(stream: ByteStream) -> None:
        await read_request(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd")

    async with inside(tmp_path, secret=SECRET, https=gzip) as at:
        stream = await at.tls(ours=True)
        await stream.send(GET + b"\r\n")
        answer = await drain(stream)
    assert b"compressed" in answer


async def test_the_sandbox_speaks_http_1_only_to_a_host_with_a_secret_and_others_stay_end_to_end(
    tmp_path: Path,
) -> None:
    names = {"api.example.com": (PUBLIC,), "a.files.example.org": (PUBLIC,)}
    allow = ["api.example.com:443", "*.files.example.org:443"]
    async with inside(
        tmp_path,
        secret=SECRET,
        names=names,
        allow=allow,
        certified=["a.files.example.org", "api.example.com"],
    ) as at:
        # Trusts the far authority only: it can finish only if nobody stands in between.
        other = await at.tls("a.files.example.org")
        await other.send(b"GET / HTTP/1.1\r\nHost: a.files.example.org\r\n\r\n")
        assert b"200 OK" in await drain(other)
        with pytest.raises((ssl.SSLError, anyio.BrokenResourceError)):
            await at.tls("api.example.com")


async def test_a_secret_is_never_sent_over_plain_http(tmp_path: Path) -> None:
    async with inside(
        tmp_path,
        secret=SECRET,
        allow=["api.example.com:443", "api.example.com:80"],
    ) as at:
        answer = await at.say(
            b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n"
            b"Authorization: Bearer ringfence-secret-API_KEY\r\n\r\n"
        )
    assert b"ringfence-secret-API_KEY" in answer
    assert VALUE.encode() not in answer
