"""Fixtures for the stand-ins: their directories in a temporary place, a host that only listens, and a child process
that imports them under ComfyUI's names."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from runtime.compat import folder_paths
from runtime.sdk import context, host

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Input, output, temp and models directories below tmp_path."""
    for name in ("input", "output", "temp", "user", "models"):
        (tmp_path / name).mkdir()
    for name in ("input", "output", "temp", "user"):
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    monkeypatch.setattr(
        folder_paths, "folder_names_and_paths", {"loras": ([str(tmp_path / "models")], {".safetensors"})}
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


class ListeningHost:
    """Remembers what the sdk would tell the host."""

    def __init__(self):
        self.said = []
        self.published = []

    def notify(self, method, params):
        self.said.append((method, params))

    def publish(self, data):
        self.published.append(data)
        return f"file{len(self.published)}"


@pytest.fixture
def listening():
    listener = ListeningHost()
    host.connect(listener)
    yield listener
    host.connect(None)


@pytest.fixture
def call():
    """A running node call."""
    with context.entered(context.CallContext(call=1, prompt_id="p", node_id="7", list_index=0)) as running:
        yield running


@pytest.fixture
def child():
    """Run code in a process where the aliases are installed; return what it prints."""

    def run(code):
        prelude = (
            "import sys; sys.dont_write_bytecode = True\nfrom runtime import aliases; aliases.install()\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", prelude + textwrap.dedent(code)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
