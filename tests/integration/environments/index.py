"""A package index of our own, with wheels and source distributions made on the spot, for builds on the real engine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

#: The part of a build backend that makes its wheel of one module; it runs where nothing of ours can be imported.
WRITES_WHEEL = """
import os, zipfile

def write_wheel(directory, name, text):
    file = name + "-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, file), "w") as archive:
        archive.writestr(name + ".py", text)
        info = name + "-1.0.dist-info/"
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: " + name + "\\nVersion: 1.0\\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(info + "RECORD", name + ".py,,\\n")
    return file
"""


def wheel(
    name: str, version: str, files: Mapping[str, str], *, licence: str = "MIT", requires: Sequence[str] = ()
) -> bytes:
    """A wheel with these files."""
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    info = f"{name}-{version}.dist-info"
    every = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
        f"License-Expression: {licence}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    for path, text in every.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(text.encode())}")
    every[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, text in every.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return data.getvalue()


def source(
    name: str, version: str, backend: str, requires: Sequence[str] = (), *, says_all: bool = True
) -> bytes:
    """A source distribution that is built by its own code ``backend``, which asks for ``requires``.

    ``says_all``: what it depends on stands in its files; else its code has to be asked.
    """
    system = f"[build-system]\nrequires = {json.dumps(list(requires))}\n"
    project = f'{system}build-backend = "backend"\nbackend-path = ["."]\n'
    files = {
        "pyproject.toml": project
        + (f'[project]\nname = "{name}"\nversion = "{version}"\n' if says_all else ""),
        "backend.py": backend,
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return data.getvalue()


class Index:
    """What is published; may change while it is served."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.url = ""
        self.asked: list[str] = []

    def page(self, project: str) -> str:
        mine = [name for name in sorted(self.files) if name.partition("-")[0] == project.replace("-", "_")]
        return "".join(
            f'<a href="/files/{name}#sha256={hashlib.sha256(self.files[name]).hexdigest()}">{name}</a><br>'
            for name in mine
        )


@contextmanager
def serve(address: str) -> Iterator[Index]:
    """An index at an address of this machine."""
    index = Index()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.asked.append(self.path)
            kind, _, name = self.path.strip("/").partition("/")
            body = index.page(name).encode() if kind == "simple" else index.files.get(name, b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html" if kind == "simple" else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    index.url = f"http://{address}:{server.server_address[1]}/simple/"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
