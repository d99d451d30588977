"""The parts of the proxy that stand alone: secrets files, certificates, meters, the operator's own proxy."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.abc import ByteStream
from hypothesis import given
from hypothesis import strategies as st

from api.settings import Settings
from policies import Secret as SecretEntry
from policies import TenantId
from sandbox import StartError
from sandbox.egress import EgressLimits, UpstreamProxyConnector, Vault
from sandbox.egress.authority import make_authority, usual_bundle
from sandbox.egress.decision import FailedError, Target
from sandbox.egress.exchange import Filling
from sandbox.egress.limits import Meter, TenantMeter
from sandbox.egress.vault import Secret
from tests.unit.egress.kit import SECRET, VALUE, head_of, local_listener, port_of

TENANT = TenantId("local")


def put(root: Path, content: bytes, mode: int = 0o600, tenant: str = "local") -> Vault:
    file = root / tenant / SECRET.name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    return Vault(root)


def test_a_secret_is_read_for_its_tenant_and_put_into_its_format(tmp_path: Path) -> None:
    (secret,) = put(tmp_path, VALUE.encode() + b"\n").secrets([SECRET], TENANT)
    assert (secret.target, secret.header) == (Target("api.example.com", 443), b"authorization")
    assert secret.line == f"Bearer {VALUE}".encode()
    assert VALUE not in repr(secret)


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (VALUE.encode(), 0o644, "open to others"),
        (VALUE.encode(), 0o620, "open to others"),
        (b"short", 0o600, "fits into no header"),
        (b"", 0o600, "fits into no header"),
        (b"sk-value\r\nX-Evil: 1", 0o600, "fits into no header"),
        (b"sk-value\n\n", 0o600, "fits into no header"),
        ("sk-välue-123".encode(), 0o600, "fits into no header"),
        (b"a" * 9000, 0o600, "fits into no header"),
    ],
)
def test_a_file_that_is_no_secret_is_refused_without_quoting_it(
    tmp_path: Path, content: bytes, mode: int, why: str
) -> None:
    with pytest.raises(StartError, match=why) as caught:
        put(tmp_path, content, mode).secrets([SECRET], TENANT)
    assert "sk-v" not in str(caught.value)


def test_a_secret_of_another_tenant_is_not_there(tmp_path: Path) -> None:
    vault = put(tmp_path, VALUE.encode(), tenant="other")
    with pytest.raises(StartError, match="'API_KEY' of tenant 'local' cannot be read"):
        vault.secrets([SECRET], TENANT)


def test_a_link_or_a_directory_is_no_secret(tmp_path: Path) -> None:
    vault = put(tmp_path, VALUE.encode(), tenant="other")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / SECRET.name).symlink_to(tmp_path / "other" / SECRET.name)
    with pytest.raises(StartError, match="cannot be read"):
        vault.secrets([SECRET], TENANT)
    (tmp_path / "local" / SECRET.name).unlink()
    (tmp_path / "local" / SECRET.name).mkdir()
    with pytest.raises(StartError, match="regular file"):
        vault.secrets([SECRET], TENANT)


# -- certificates --------------------------------------------------------------------------------------------------


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A TLS handshake in memory; raises what the client says."""
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    far, near = server.wrap_bio(a, b, server_side=True), client.wrap_bio(b, a, server_hostname=name)
    for _ in range(4):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert near.getpeercert()


def test_an_authority_is_good_for_its_own_hosts_and_leaves_no_key_behind(tmp_path: Path) -> None:
    made = make_authority(["api.example.com", "8.8.4.4"], tmp_path, label="local-blur-1")
    assert list(tmp_path.iterdir()) == []
    assert "PRIVATE KEY" not in made.certificate
    client = ssl.create_default_context(cadata=made.certificate)
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    handshake(made.contexts["api.example.com"], client, "api.example.com")
    handshake(made.contexts["8.8.4.4"], client, "8.8.4.4")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made.contexts["api.example.com"], client, "evil.example.com")


def test_nobody_else_trusts_it(tmp_path: Path) -> None:
    made = make_authority(["api.example.com"], tmp_path, label="x")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made.contexts["api.example.com"], ssl.create_default_context(), "api.example.com")
    other = make_authority(["api.example.com"], tmp_path, label="x")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(
            made.contexts["api.example.com"],
            ssl.create_default_context(cadata=other.certificate),
            "api.example.com",
        )


def test_the_bundle_of_a_sandbox_holds_what_this_machine_trusts() -> None:
    assert "BEGIN CERTIFICATE" in usual_bundle()


# -- clearing answers ----------------------------------------------------------------------------------------------

ONE = Secret("ONE", Target("a.com", 443), b"authorization", b"aabaabaa", b"aabaabaa")


@given(st.lists(st.sampled_from([b"aab", b"aabaabaa", b"a", b"b", b"aabaabab", b"xaabaa", b""]), max_size=30))
def test_a_secret_is_cleared_wherever_an_answer_is_cut(pieces: list[bytes]) -> None:
    filling = Filling([ONE])
    out = b"".join(filling.body(piece) for piece in pieces) + filling.body(b"", last=True)
    whole = b"".join(pieces)
    assert len(out) == len(whole)
    assert ONE.value not in out
    assert all(new in (old, ord("*")) for new, old in zip(out, whole, strict=True))
    if ONE.value not in whole:
        assert out == whole


def test_what_cannot_begin_a_secret_is_passed_on_at_once() -> None:
    assert Filling([ONE]).body(b"data: hello\n\n") == b"data: hello\n\n"


# -- meters --------------------------------------------------------------------------------------------------------


def test_sandboxes_of_one_tenant_share_its_connections_and_bytes() -> None:
    limits = EgressLimits(tenant_connections=2, tenant_up=100)
    tenant = TenantMeter("studio", limits)
    one, two = Meter(limits, tenant), Meter(limits, tenant)
    one.enter()
    two.enter()
    with pytest.raises(FailedError, match="2 connections of this tenant"):
        two.enter()
    one.leave()
    two.enter()
    one.add(up=60)
    with pytest.raises(FailedError, match=r"tenant 'studio' has sent .* in a day"):
        two.add(up=60)


def test_a_sandbox_that_is_fast_waits() -> None:
    meter = Meter(EgressLimits(bytes_per_s=1000), TenantMeter("studio", EgressLimits()))
    assert meter.add(down=900) == 0.0
    assert 0.5 < meter.add(down=1000) < 1.5


# -- the operator's proxy ------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_operators_proxy_is_asked_for_the_address_that_was_checked() -> None:
    heads: list[bytes] = []

    async def proxy(stream: ByteStream) -> None:
        async with stream:
            heads.append(await head_of(stream))
            status = b"407 Denied" if b"8.8.8.8" in heads[-1] else b"200 OK"
            await stream.send(b"HTTP/1.1 " + status + b"\r\n\r\nfirst")

    listener = await local_listener()
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, proxy)
        connector = UpstreamProxyConnector(f"http://me:p%40ss@127.0.0.1:{port_of(listener)}")
        async with await connector.connect("93.184.216.34", 443) as stream:
            assert await stream.receive() == b"first"
        with pytest.raises(OSError, match="407"):
            await connector.connect("8.8.8.8", 443)
        async with await connector.connect("2606:4700::1111", 443):
            pass
        group.cancel_scope.cancel()
    assert heads[0].startswith(b"CONNECT 93.184.216.34:443 HTTP/1.1\r\n")
    assert base64.b64encode(b"me:p@ss") in heads[0]
    assert heads[2].startswith(b"CONNECT [2606:4700::1111]:443 ")


@pytest.mark.parametrize(
    "url", ["proxy:3128", "https://proxy:3128", "http://proxy", "http://proxy:3128/path", "socks5://x:1"]
)
def test_a_setting_that_names_no_proxy_is_refused_at_the_start(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGFENCE_EGRESS_PROXY", url)
    with pytest.raises(ValueError, match="http://host:port"):
        Settings()


def test_the_hosts_own_proxy_variables_choose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert Settings().egress_proxy is None


def test_a_policys_entry_and_a_secret_are_two_things() -> None:
    assert SecretEntry is not Secret
