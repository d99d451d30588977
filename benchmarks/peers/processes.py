"""pyisolate: extensions in plain processes, in an environment of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import environment, run

DRIVER = Path(__file__).resolve().with_name("pyisolate_driver.py")
REQUIREMENT = "pyisolate==0.10.2"


@dataclass(frozen=True, slots=True)
class Measured:
    """What its driver found, in ms."""

    version: str
    calls: list[float]
    into_and_back: dict[int, list[float]]
    into: dict[int, list[float]]


def measure(folder: Path, *, calls: int, runs: int, sizes_mib: list[int]) -> Measured:
    """Calls and tensors, with pyisolate's plain processes.

    Raises:
        LeftOutError: it cannot be installed or does not run here.
    """
    python = environment(folder / "pyisolate", [REQUIREMENT], with_ours=True)
    arguments = [str(folder / "pyisolate-extensions"), str(calls), str(runs), *map(str, sizes_mib)]
    done = run([str(python), str(DRIVER), *arguments], "pyisolate does not run")
    said = json.loads(done.splitlines()[-1])
    return Measured(
        version=said["version"],
        calls=said["calls"],
        into_and_back={int(mib): samples for mib, samples in said["into_and_back"].items()},
        into={int(mib): samples for mib, samples in said["into"].items()},
    )
