"""Runs where matplotlib is: draws plots of saved reports.

python drawing.py RESULTS TARGET
"""

import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

mpl.rcParams.update({"svg.hashsalt": "ringfence", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
COLOURS = {"ours": "#1f6f8b", "gvisor": "#99738e", "peer": "#d1495b", "floor": "#888888"}


def medians(results: Path, name: str) -> dict[str, float]:
    """Row name to median, of one saved report; empty when there is none."""
    path = results / f"{name}.json"
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["what"]: statistics.median(row["samples"]) for row in rows}


def by_number(rows: Mapping[str, float], pattern: str) -> list[tuple[int, float]]:
    """Points (number in the name, median) of the rows whose whole name fits, in order."""
    found = []
    for what, value in rows.items():
        match = re.fullmatch(pattern, what)
        if match:
            found.append((_number(match), value))
    return sorted(found)


def _number(match: re.Match[str]) -> int:
    units = {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20}
    number = int(match["n"].replace(",", ""))
    return number * units[match["unit"]] if "unit" in match.groupdict() else number


def lines(axes: Any, rows: Mapping[str, float], series: Sequence[tuple[str, str, str, str]]) -> None:
    for label, pattern, colour, style in series:
        points = by_number(rows, pattern)
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, color=colour, markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(fontsize=8)


def chain(results: Path) -> Any:
    """Cost of a node by the length of the chain."""
    rows, gvisor = medians(results, "chain-runc"), medians(results, "chain-gvisor")
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(6, 3.8))
    series = (
        ("one sandbox", r"one sandbox, (?P<n>[\d,]+) nodes: a node", COLOURS["ours"], "o-"),
        (
            "two sandboxes in turn",
            r"two sandboxes in turn, (?P<n>[\d,]+) nodes: a node",
            COLOURS["ours"],
            "s--",
        ),
        ("ComfyUI in process", r"ComfyUI, (?P<n>[\d,]+) nodes: a node", COLOURS["peer"], "o-"),
        ("floor: a server that only must", r"floor, (?P<n>[\d,]+) nodes: a node", COLOURS["floor"], "-"),
    )
    lines(axes, rows, series)
    lines(axes, gvisor, (("gVisor: one sandbox", series[0][1], COLOURS["gvisor"], "o-"),))
    axes.set(
        xlabel="nodes in the chain",
        ylabel="ms a node",
        title="Trivial nodes in one prompt, a client listening",
    )
    return figure


def tensors(results: Path) -> Any:
    """Cost of a tensor by its size."""
    rows, gvisor = medians(results, "tensor_trip-runc"), medians(results, "tensor_trip-gvisor")
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(6, 4.2))
    size = r"(?P<n>\d+) (?P<unit>[KMG]iB)"
    series = (
        ("handed to the next sandbox", rf"{size}: handed to the next sandbox", COLOURS["ours"], "o-"),
        (
            "fresh one in, new one back",
            rf"{size}: a fresh one into a sandbox and a new one back",
            COLOURS["ours"],
            "s--",
        ),
        ("pyisolate, the same", rf"{size}: pyisolate.*", COLOURS["peer"], "s--"),
        ("floor: memcpy", rf"{size}: memcpy", COLOURS["floor"], "-"),
        ("floor: written once to tmpfs", rf"{size}: written once to tmpfs", COLOURS["floor"], "--"),
    )
    lines(axes, rows, series)
    lines(axes, gvisor, (("gVisor: handed to the next", series[0][1], COLOURS["gvisor"], "o-"),))
    axes.set(xlabel="KiB", ylabel="ms", title="A tensor between sandboxes")
    return figure


def bars(results: Path) -> Any:
    """Round trip and cold start, each as bars."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    calls = medians(results, "round_trip-runc")
    gvisor = medians(results, "round_trip-gvisor")
    if gvisor:
        calls["node call, gVisor"] = gvisor["node call"]
    starts = {
        name: value
        for name, value in medians(results, "cold_start-runc").items()
        if "first result" in name or name.startswith("docker run")
    }
    if not calls and not starts:
        return None
    for axes, values, title in (
        (left, calls, "One call"),
        (right, starts, "From nothing to the first result"),
    ):
        names = list(values)
        axes.barh(range(len(names)), list(values.values()), color=[COLOURS[whose(name)] for name in names])
        axes.set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=7)
        axes.invert_yaxis()
        axes.set(xlabel="ms (p50)", title=title)
    return figure


def whose(row: str) -> str:
    """Whose bar this row is, a name of ``COLOURS``."""
    if "pyisolate" in row:
        return "peer"
    if "echo" in row or row.startswith("docker run"):
        return "floor"
    return "gvisor" if row.endswith("gVisor") else "ours"


def shared_weights(results: Path) -> Any:
    """What all holders of one file of weights take together, by their number."""
    rows = medians(results, "shared_weights-runc")
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(6, 3.8))
    gvisor = medians(results, "shared_weights-gvisor")
    sandboxes = r"(?P<n>\d+) sandbox(es)?: the weights in all"
    for label, found, pattern, colour, style in (
        ("sandboxes", rows, sandboxes, COLOURS["ours"], "o-"),
        ("sandboxes, gVisor", gvisor, sandboxes, COLOURS["gvisor"], "o-"),
        (
            "plain processes that read it",
            rows,
            r"(?P<n>\d+) plain process(es)? that reads? it.*",
            COLOURS["peer"],
            "s-",
        ),
        (
            "plain processes that map it",
            rows,
            r"(?P<n>\d+) plain process(es)? that maps? it.*",
            COLOURS["floor"],
            "-",
        ),
    ):
        points = by_number(found, pattern)
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, color=colour, markersize=4)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.set(xlabel="holders", ylabel="MiB (PSS)", title="One file of weights, held by several")
    return figure


def soak(results: Path) -> Any:
    """What a long run holds, over its calls."""
    path = results / "soak.json"
    if not path.is_file():
        return None
    looks = json.loads(path.read_text(encoding="utf-8"))["looks"]
    names = [name for name in looks[0] if name not in ("calls", "seconds")]
    figure, grid = plt.subplots(2, (len(names) + 1) // 2, figsize=(10, 4.4), squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        axes.plot([look["calls"] for look in looks], [look[name] for look in looks], color=COLOURS["ours"])
        axes.set_title(name, fontsize=8)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
    return figure


def main(results: Path, target: Path) -> None:
    for name, make in (
        ("chain", chain),
        ("tensors", tensors),
        ("calls-and-starts", bars),
        ("weights", shared_weights),
        ("soak", soak),
    ):
        figure = make(results)
        if figure is None:
            continue
        figure.tight_layout()
        for suffix in ("png", "svg"):
            metadata = {"Date": None} if suffix == "svg" else {"Software": None}
            figure.savefig(target / f"{name}.{suffix}", dpi=120, metadata=metadata)
            print(f"drawn: {target / name}.{suffix}")
        plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
