"""Plots of what the last run saved, as PNG and SVG: drawn by matplotlib in an environment of its own below build/."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.environments import environment, run

REQUIREMENT = "matplotlib==3.11.2"
DRAWER = Path(__file__).resolve().with_name("drawing.py")


def draw(results: Path, target: Path, environments: Path) -> list[Path]:
    """Draw every plot that there are figures for; the SVG files.

    Raises:
        LeftOutError: matplotlib cannot be installed, or does not run.
    """
    python = environment(environments / "plots", [REQUIREMENT], with_ours=False)
    target.mkdir(parents=True, exist_ok=True)
    print(run([str(python), str(DRAWER), str(results), str(target)], "the plots could not be drawn"), end="")
    return sorted(target.glob("*.svg"))
