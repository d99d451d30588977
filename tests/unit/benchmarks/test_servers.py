"""ComfyUI as a peer: which Python it runs on is said, and that it is another than ours."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers.servers import ComfyUI


def test_the_same_python_needs_no_word_and_another_build_does(tmp_path: Path) -> None:
    same = ComfyUI(tmp_path, Path(sys.executable))
    assert same.build == " ".join(sys.version.split())
    assert same.caution == ""
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho '3.11.9 (main) [Clang]'\n")
    other.chmod(0o755)
    assert ComfyUI(tmp_path, other).build == "3.11.9 (main) [Clang]"
    assert ComfyUI(tmp_path, other).caution.startswith(
        "ComfyUI ran on another Python (3.11.9 (main) [Clang]) than ours"
    )
