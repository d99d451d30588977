"""What a process is made to look like before a pack runs in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.contract.worker.test_life import node, pack
from tests.contract.worker.workerhost import PACKS, WorkerHost


def test_the_extensions_environment_wins_over_the_image_but_not_over_the_standard_library(
    start_worker: Callable[..., WorkerHost], tmp_path: Path
) -> None:
    host = start_worker(hello=False)
    environment = host.root / "ringfence/env"
    environment.mkdir()
    (environment / "sortedcontainers.py").write_text(
        "origin = 'environment'\n"
    )  # the test's own packages have it
    (environment / "dataclasses.py").write_text("raise RuntimeError('shadows the standard library')\n")
    (environment / "more").mkdir()
    (environment / "more" / "rf_from_pth.py").write_text("origin = 'pth'\n")
    (environment / "paths.pth").write_text("more\nimport os; os.environ['RF_PTH'] = 'ran'\n")
    (environment / "numpy-1.26.4.dist-info").mkdir()
    (environment / "numpy-1.26.4.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 1.26.4\n")
    assert host.hello()["numpy"] == "1.26.4"
    code = """
    import dataclasses, os, rf_from_pth, sortedcontainers
    out = (sortedcontainers.origin, rf_from_pth.origin, os.environ["RF_PTH"], dataclasses.__file__)
    """
    host.load("pack", pack(tmp_path, node(code)))
    origins = host.execute("N")["slots"][0][0]["$tuple"]
    assert origins[:3] == ["environment", "pth", "ran"]
    assert not origins[3].startswith(str(environment))


def test_the_checkouts_own_rooms_are_not_importable_and_the_application_root_is(
    start_worker: Callable[..., WorkerHost], tmp_path: Path
) -> None:
    host = start_worker()
    # The search path only: an editable install of this project brings a finder of its own, which no image has.
    code = """
    import sys
    from importlib.machinery import PathFinder
    out = [name for name in ("api", "engine", "sandbox", "policies", "tests") if PathFinder.find_spec(name)]
    import custom_nodes.friendly_copy.part
    out += [sys.path[0], sys.dont_write_bytecode]
    """
    place = pack(tmp_path, node(code), "friendly_copy")
    (place / "part.py").touch()
    host.load("friendly_copy", place)
    assert host.execute("N")["slots"] == [[[f"{host.root}/app", True]]]


def test_home_is_made_or_replaced_when_it_cannot_be_written(
    start_worker: Callable[..., WorkerHost], tmp_path: Path
) -> None:
    host = start_worker()  # its variables name no HOME
    code = """
    import os
    home = os.path.expanduser("~")
    with open(os.path.join(home, "settings"), "w") as file:
        file.write("x")
    out = home
    """
    host.load("pack", pack(tmp_path, node(code)))
    assert host.execute("N")["slots"] == [[f"{host.root}/app/home"]]


def test_the_original_of_an_extension_is_never_written_to(start_worker: Callable[..., WorkerHost]) -> None:
    def listing() -> list[str]:
        return sorted(str(path) for path in (PACKS / "friendly_v3").rglob("*"))

    host = start_worker()
    before = listing()
    host.load("friendly_v3")
    assert listing() == before
