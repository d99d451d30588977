"""A certificate authority for one sandbox, made when it starts: for the hosts that have a secret, and for no other.

To fill in a header of an https request the proxy has to end the encryption and begin a new one. The sandbox trusts
this authority because its bundle says so; nobody else does. Its key signs the few certificates and is deleted; their
keys live in this process only. Made by the ``openssl`` program: no package of ours needs to know X.509.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sandbox.errors import StartError

_DAYS: Final = "365"
_TIMEOUT_S: Final = 20.0
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Authority:
    """Its public certificate, and how to be each of its hosts."""

    certificate: str
    contexts: dict[str, ssl.SSLContext] = field(repr=False)


def make_authority(names: Sequence[str], scratch: Path, *, label: str) -> Authority:
    """Make one for ``names`` (in their one spelling). ``scratch``: a private directory in memory. Blocking.

    Raises:
        StartError: the program is missing or failed.
    """
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as directory:  # mode 0700; gone with the keys in it
        place = Path(directory)
        permitted = ",".join(f"permitted;{_constraint(name)}" for name in names)
        (place / "ca.cnf").write_text(
            "[req]\ndistinguished_name=dn\nprompt=no\nx509_extensions=ca\n"
            f"[dn]\nCN=Ringfence {label[:40]}\n"
            "[ca]\nbasicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
            f"subjectKeyIdentifier=hash\nnameConstraints=critical,{permitted}\n"
        )
        _openssl(
            place,
            "req",
            "-x509",
            *_KEY,
            "-config",
            "ca.cnf",
            "-days",
            _DAYS,
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        )
        contexts = {name: _leaf(place, name, number) for number, name in enumerate(names)}
        return Authority((place / "ca.pem").read_text("ascii"), contexts)


def _leaf(place: Path, name: str, number: int) -> ssl.SSLContext:
    (place / "leaf.cnf").write_text(
        f"[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=Ringfence leaf {number}\n"
        f"[leaf]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        f"extendedKeyUsage=serverAuth\nsubjectAltName={_kind(name)}:{name}\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    _openssl(place, "req", "-new", *_KEY, "-config", "leaf.cnf", "-keyout", "leaf.key", "-out", "leaf.csr")
    _openssl(
        place, "x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", _DAYS, "-extfile", "leaf.cnf", "-extensions", "leaf", "-out", "leaf.pem",
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(place / "leaf.pem", place / "leaf.key")
    context.set_alpn_protocols(["http/1.1"])  # one request, one parser: no HTTP/2 to translate
    return context


def _kind(name: str) -> str:
    return "IP" if _address(name) is not None else "DNS"


def _constraint(name: str) -> str:
    address = _address(name)
    if address is None:
        return f"DNS:{name}"
    return f"IP:{name}/{ipaddress.ip_network(address).netmask}"


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def usual_bundle() -> str:
    """The certificates that this machine trusts, as one text; empty when there is no such file. Blocking."""
    found = ssl.get_default_verify_paths().openssl_cafile
    for path in (found, *_BUNDLES):
        if path and Path(path).is_file():
            return Path(path).read_text("utf-8", "replace")
    return ""


def _openssl(place: Path, *arguments: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise StartError("secrets need the program 'openssl', which is not installed", "apt install openssl")
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=place,
            env={
                "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
                "OPENSSL_CONF": "/dev/null",
                "HOME": str(place),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(
            f"'openssl {arguments[0]}' failed: {type(error).__name__}", "look at the host's log"
        ) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise StartError(f"'openssl {arguments[0]}' failed: {said[-1][:200] if said else done.returncode}")
