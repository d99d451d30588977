"""Environments of the benchmarks' own below build/: made once, from the package index, apart from ours."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path


class LeftOutError(Exception):
    """Why something is not measured here."""


def environment(folder: Path, requirements: list[str], *, with_ours: bool) -> Path:
    """The Python of an environment in ``folder`` with these packages; ``with_ours``: ours after them (torch).

    Raises:
        LeftOutError: it could not be made.
    """
    python = folder / "bin" / "python"
    mark = folder / "requirements"
    wanted = "\n".join(requirements)
    if not (mark.is_file() and mark.read_text(encoding="utf-8") == wanted):
        run([sys.executable, "-m", "venv", "--clear", str(folder)], "no environment could be made")
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *requirements,
        ]
        run(install, f"{wanted} could not be installed")
        if with_ours:
            lib = (
                folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
            )
            ours = sysconfig.get_path("purelib")
            (lib / "_ringfence_bench.pth").write_text(f"import site; site.addsitedir({ours!r})\n", "utf-8")
        mark.write_text(wanted, encoding="utf-8")
    return python


def run(command: list[str], what: str) -> str:
    """What it printed.

    Raises:
        LeftOutError: it failed; ``what`` that means.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LeftOutError(f"{what}: {error}") from error
    if done.returncode:
        raise LeftOutError(f"{what}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
