"""Every attack of ``ATTACKS.toml`` from inside a container: it fails in a sandbox, and succeeds without its wall.

All of them run in one container of each runtime, each in a process of its own; those of one weakening in one more.
"""

from __future__ import annotations

import contextlib
import platform
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.security.shooting_range import Range, shooting_range
from tests.security.weakenings import WEAKENINGS

HERE = Path(__file__).parent
LIST = tomllib.loads((HERE / "ATTACKS.toml").read_text("utf-8"))
ATTACKS: list[dict[str, Any]] = LIST["attack"]
NAMES = [attack["id"] for attack in ATTACKS]
BOTH = ["runc", pytest.param("gvisor", marks=pytest.mark.gvisor)]
LARGEST_CAPABILITY = 24  # CAP_SYS_RESOURCE

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the attacks speak in numbers of x86-64"),
]


@pytest.fixture(scope="module")
def ground(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    with contextlib.closing(docker.from_env()) as client:
        root = tmp_path_factory.mktemp("range")
        for above in (root, *root.parents[:2]):
            above.chmod(0o755)
        with shooting_range(root, client.api) as made:
            yield made


def tried(isolation: str) -> list[str]:
    """What is tried under a runtime: all, but for what says why it is not."""
    return [item["id"] for item in ATTACKS if isolation == "runc" or item["gvisor"] in ("same", "kernel")]


@pytest.mark.parametrize("isolation", BOTH)
def test_no_attack_gains_anything_in_a_sandbox(ground: Range, isolation: str) -> None:
    names = tried(isolation)
    if not engine_may_protect_itself():
        names.remove("less-likely-to-be-killed") if isolation == "runc" else None
    gains = {name: gain for name, gain in ground.attack(isolation, names).items() if gain}
    assert gains == {}


def engine_may_protect_itself() -> bool:
    """Whether this machine's engine has CAP_SYS_RESOURCE; without, the kernel lets a process undo its OOM score."""
    (line,) = [line for line in Path("/proc/1/status").read_text().splitlines() if line.startswith("CapBnd")]
    return bool(int(line.split()[1], 16) & 1 << LARGEST_CAPABILITY)


@pytest.mark.parametrize("weakening", sorted({attack["weakened"] for attack in ATTACKS}))
def test_without_its_wall_each_attack_succeeds(ground: Range, weakening: str) -> None:
    chosen = [attack for attack in ATTACKS if attack["weakened"] == weakening]
    gains = ground.attack("runc", [attack["id"] for attack in chosen], weakening)
    held = {attack["id"] for attack in chosen if not gains[attack["id"]] and not attack.get("optional")}
    assert held == set(), (
        f"not shown to be stopped by anything: {[(name, ground.held[name]) for name in held]}"
    )


@pytest.mark.gvisor
@pytest.mark.parametrize("weakening", sorted({a["weakened"] for a in ATTACKS if a["gvisor"] == "same"}))
def test_without_its_wall_each_attack_succeeds_in_gvisor_too(ground: Range, weakening: str) -> None:
    chosen = [attack for attack in ATTACKS if attack["weakened"] == weakening and attack["gvisor"] == "same"]
    gains = ground.attack("gvisor", [attack["id"] for attack in chosen], weakening)
    held = {attack["id"] for attack in chosen if not gains[attack["id"]] and not attack.get("optional")}
    assert held == set(), (
        f"not shown to be stopped by anything: {[(name, ground.held[name]) for name in held]}"
    )


@pytest.mark.gvisor
@pytest.mark.parametrize("weakening", sorted({a["weakened"] for a in ATTACKS if a["gvisor"] == "kernel"}))
def test_what_gvisors_own_kernel_stops_is_stopped_there_without_the_other_walls(
    ground: Range, weakening: str
) -> None:
    chosen = [
        attack for attack in ATTACKS if attack["weakened"] == weakening and attack["gvisor"] == "kernel"
    ]
    gains = ground.attack("gvisor", [attack["id"] for attack in chosen], weakening)
    assert {name: gain for name, gain in gains.items() if gain} == {}


def test_the_list_names_every_attack_once_and_there_are_enough() -> None:
    scripts = "".join(
        (HERE / "assault" / name).read_text("utf-8") for name in ("kernel.py", "around.py", "further.py")
    )
    assert sorted(NAMES) == sorted(set(NAMES))
    assert {f'@attack("{name}")' for name in NAMES} == {
        line for line in scripts.splitlines() if line.startswith("@attack(")
    }
    assert {attack["weakened"] for attack in ATTACKS} <= WEAKENINGS.keys()
    assert len([attack for attack in ATTACKS if not attack.get("optional")]) >= 60


@pytest.mark.parametrize("test", sorted({entry["test"] for entry in LIST["elsewhere"]}))
def test_an_attack_from_elsewhere_has_the_test_that_it_names(test: str) -> None:
    path, _, name = test.partition("::")
    assert f"def {name}(" in (HERE.parent / path).read_text("utf-8")
