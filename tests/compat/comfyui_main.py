"""Stands where ComfyUI's ``main.py`` stands for its test suite, and starts a Ringfence host instead.

``comfyui_execution.py`` links it into a workspace beside the suite. What the suite asks of ComfyUI's command line
(address, port, cache mode) becomes settings of an ordinary host with ordinary sandboxes; each start gets a copy of the
prepared data directory, so no server sees another's history. The host replaces this process: the suite kills it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVE = ("-c", "from api.cli import main; main()", "serve")


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--listen", nargs="?", const="0.0.0.0", default="127.0.0.1")
    parser.add_argument("--port", default="8188")
    parser.add_argument("--cache-lru", type=int, default=0)
    parser.add_argument("--cache-none", action="store_true")
    parser.add_argument("--cache-classic", action="store_true")
    parser.add_argument("--cache-ram", nargs="*", type=float)
    options, ignored = parser.parse_known_args()
    workspace = Path(os.environ["RINGFENCE_SUITE_WORKSPACE"])
    data = workspace / f"data-{uuid.uuid4().hex[:8]}"
    shutil.copytree(workspace / "prepared", data, symlinks=True)
    mode = os.environ.get("RINGFENCE_SUITE_CACHE") or cache_mode(options)
    settings = {
        "RINGFENCE_DATA_DIR": str(data),
        "RINGFENCE_LISTEN": options.listen,
        "RINGFENCE_PORT": options.port,
        "RINGFENCE_CACHE_MODE": mode,
        "PYTHONPATH": str(ROOT),
    }
    print(
        f"ringfence: port {options.port}, cache {mode}; not used here: {' '.join(ignored)}", file=sys.stderr
    )
    os.execve(sys.executable, [sys.executable, *SERVE], {**os.environ, **settings})


def cache_mode(options: argparse.Namespace) -> str:
    """The setting that ComfyUI's options come to; as there, an LRU cache of 0 is no LRU cache."""
    if options.cache_lru > 0:
        return f"lru:{options.cache_lru}"
    if options.cache_none:
        return "none"
    return "ram" if options.cache_ram is not None else "classic"


if __name__ == "__main__":
    main()
