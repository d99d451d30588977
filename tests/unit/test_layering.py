"""Imports point one way: api, engine, sandbox, policies; runtime imports none of them and only the stdlib."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("policies", "runtime", "sandbox", "engine", "api")
MAY_IMPORT = {
    "policies": set(),
    "runtime": set(),
    "sandbox": {"policies", "runtime"},
    "engine": {"policies", "sandbox"},
    "api": {"policies", "sandbox", "engine"},
}
#: A room is entered by its front door. These submodules are doors of their own, each for a reason.
SIDE_DOORS = {
    "runtime.wire": "the protocol as data, the one thing both zones share",
    "sandbox.calls": "the vocabulary between engine and sandbox",
    "sandbox.errors": "the error tree of the sandbox room",
    "sandbox.launcher.process": "the launcher's own process, which the host never loads",
    "sandbox.launcher.service": "its limits",
    "sandbox.launcher.settings": "its settings",
    "engine.events": "what happened, as data",
    "engine.errors": "the error tree of the engine room",
    "sandbox.testing": "official stand-ins, for tests",
    "engine.testing": "official stand-ins, for tests",
}
ENGINE_SDK_MODULES = {"sandbox/launcher/container_engine.py", "sandbox/launcher/build.py"}
#: In runtime/, allowed only inside functions: a value or a stand-in may need them, starting may not.
LATE_ONLY = {"numpy", "torch", "PIL", "scipy", "safetensors", "aiohttp", "einops", "cv2", "av", "psutil"}
LATE_ONLY |= {"yarl"}  # aiohttp's own type of URLs


def modules(room: str) -> list[Path]:
    return sorted(p for p in (ROOT / room).rglob("*.py") if "migrations/versions" not in p.as_posix())


@cache
def imports(path: Path) -> tuple[tuple[str, int, bool], ...]:
    """(absolute module name, line, is at module level) of each; a relative import cannot leave its room."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    for node, is_late in _statements(ast.parse(path.read_text(encoding="utf-8")), is_late=False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, not is_late
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if _is_module(submodule) else node.module, node.lineno, not is_late


def _statements(around: ast.AST, *, is_late: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Each statement inside, and whether it stands in a function; none that is for a type checker only."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        inside = getattr(around, part, ())
        for node in inside if isinstance(inside, list) else ():
            if _is_type_checking(node):
                continue
            if isinstance(node, ast.stmt):
                yield node, is_late
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _statements(node, is_late=is_late or is_function)


@cache
def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downward_and_enter_by_the_front_door(room: str) -> None:
    wrong = []
    for path in modules(room):
        for name, line, _ in imports(path):
            top = name.split(".")[0]
            if top not in ROOMS or top == room:
                continue
            where = f"{path.relative_to(ROOT)}:{line} imports {name}"
            if top not in MAY_IMPORT[room]:
                wrong.append(f"{where}: {room} may import only {sorted(MAY_IMPORT[room])}")
            elif name != top and name not in SIDE_DOORS:
                wrong.append(f"{where}: enter {top} by its front door")
            elif top == "runtime" and name != "runtime.wire":
                wrong.append(f"{where}: of runtime only runtime.wire")
            elif name.endswith(".testing"):
                wrong.append(f"{where}: stand-ins are for tests")
    assert not wrong, "\n".join(wrong)


def test_runtime_starts_on_the_standard_library_alone() -> None:
    wrong = []
    for path in modules("runtime"):
        for name, line, top_level in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or (top in LATE_ONLY and not top_level):
                continue
            if "compat" in path.parts and top in LATE_ONLY:
                continue  # a stand-in is imported by a pack that wants it, not at start
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_engine_sdk_is_imported_by_the_launcher_only() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in modules(room)
        for name, _, _ in imports(path)
        if name.split(".")[0] == "docker"
    }
    assert users <= ENGINE_SDK_MODULES, sorted(users - ENGINE_SDK_MODULES)


@pytest.mark.parametrize("room", ["policies", "sandbox", "engine", "api"])
def test_the_host_imports_no_torch_and_decodes_no_media(room: str) -> None:
    heavy = {"torch", "PIL", "cv2", "av", "imageio", "pickle", "marshal", "shelve"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(room)
        for name, line, _ in imports(path)
        if name.split(".")[0] in heavy
    ]
    assert not wrong, "\n".join(wrong)
