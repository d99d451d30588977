"""ComfyUI itself as a server, from a checkout that somebody names; nothing of it is fetched or installed here."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.served import Served, free_port, running


@dataclass(frozen=True, slots=True)
class ComfyUI:
    """A checkout and the Python that has what it needs."""

    checkout: Path
    python: Path

    @property
    def version(self) -> str:
        """As its files say."""
        for line in (self.checkout / "comfyui_version.py").read_text(encoding="utf-8").splitlines():
            if line.startswith("__version__"):
                return line.partition("=")[2].strip().strip("\"'")
        return "of unknown version"

    @property
    def flaw(self) -> str:
        """Why it cannot be used; empty when it can."""
        if not (self.checkout / "main.py").is_file():
            return f"{self.checkout} has no main.py"
        if not self.python.is_file():
            return f"{self.python} is no Python"
        asked = subprocess.run(
            [self.python, "-c", "import aiohttp, torch"], capture_output=True, check=False, timeout=120
        )
        return f"{self.python} has no torch and aiohttp" if asked.returncode else ""

    @property
    def build(self) -> str:
        """Which Python it runs on: version, date of its build, compiler."""
        asked = [str(self.python), "-c", "import sys; print(' '.join(sys.version.split()))"]
        return subprocess.run(asked, capture_output=True, check=True, timeout=120, text=True).stdout.strip()

    @property
    def caution(self) -> str:
        """Why ratios with it say something else than they seem to; empty when they do not.

        A Python that was built without profile-guided optimisation is much slower than Debian's.
        """
        ours = " ".join(sys.version.split())
        return (
            "" if self.build == ours else f"ComfyUI ran on another Python ({self.build}) than ours ({ours})"
        )

    @contextlib.contextmanager
    def server(self, folder: Path, packs: Mapping[str, str]) -> Iterator[Served]:
        """One with these packs (name to code) and no others, its files below ``folder``."""
        for name, code in packs.items():
            pack = folder / "custom_nodes" / name
            pack.mkdir(parents=True)
            (pack / "__init__.py").write_text(code, encoding="utf-8")
        port = free_port()
        words = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(folder)]
        command = [str(self.python), "main.py", *words, "--disable-api-nodes", "--disable-metadata"]
        log = folder / "server.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, cwd=self.checkout, stdout=stream, stderr=stream)
        url = f"http://127.0.0.1:{port}"
        with running(process, f"{url}/system_stats", lambda: _end_of(log)):
            yield Served(url, process.pid, "")


def _end_of(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    return f"ComfyUI does not start: {text[-3000:]}"
