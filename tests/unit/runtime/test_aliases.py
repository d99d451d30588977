from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from runtime import aliases

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``rftest.compat`` with aliases for what is in it."""
    directory = tmp_path / "rftest" / "compat"
    (directory / "rf_pkg" / "deep").mkdir(parents=True)
    for place in (directory.parent, directory):
        (place / "__init__.py").touch()
    (directory / "rf_one.py").write_text("from . import rf_two\nimport rf_pkg.part\nvalue = 1\n")
    (directory / "rf_two.py").write_text("import rf_one\nvalue = 2\n")
    (directory / "rf_pkg" / "__init__.py").write_text("name = __name__\n")
    (directory / "rf_pkg" / "part.py").write_text("from . import name\nfrom .deep import leaf\n")
    (directory / "rf_pkg" / "deep" / "__init__.py").touch()
    (directory / "rf_pkg" / "deep" / "leaf.py").touch()
    (directory / "rf_broken.py").write_text("raise RuntimeError('broken')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    finder = aliases.install("rftest.compat", directory)
    yield directory
    sys.meta_path.remove(finder)
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("first", ["rf_one", "rftest.compat.rf_one", "rf_two"])
def test_both_names_are_one_module_whichever_comes_first(stand_ins: Path, first: str) -> None:
    importlib.import_module(first)
    for name in ("rf_one", "rf_two", "rf_pkg", "rf_pkg.part", "rf_pkg.deep.leaf"):
        module = importlib.import_module(name)
        assert module is importlib.import_module(f"rftest.compat.{name}")
        assert module.__spec__ is not None
        assert module.__spec__.name == module.__name__ == f"rftest.compat.{name}"


def test_names_that_do_not_exist_go_the_usual_way(stand_ins: Path, tmp_path: Path) -> None:
    (tmp_path / "rf_other.py").write_text("value = 5\n")
    assert importlib.import_module("rf_other").value == 5
    for name in ("rf_missing", "rf_pkg.missing", "rf_one.part"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_a_packs_own_module_named_by_its_path_is_left_alone(stand_ins: Path, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "part.py").touch()
    finder = aliases.install("rftest.compat", stand_ins)
    assert finder.find_spec(f"{tmp_path}/pack.part") is None
    assert finder.find_spec("..rf_one") is None


def test_a_stand_in_wins_over_a_module_of_that_name_on_the_path(stand_ins: Path, tmp_path: Path) -> None:
    (tmp_path / "rf_one.py").write_text("value = 'not ours'\n")
    assert importlib.import_module("rf_one").value == 1


def test_a_stand_in_that_fails_fails_again(stand_ins: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            importlib.import_module("rf_broken")


def test_installing_twice_changes_nothing(stand_ins: Path) -> None:
    assert aliases.install("rftest.compat", stand_ins) is aliases.install("rftest.compat", stand_ins)


def test_shown_names_are_those_that_packs_know() -> None:
    assert aliases.shown_name("runtime.compat.comfy.utils") == "comfy.utils"
    assert aliases.shown_name("some.other") == "some.other"


def test_the_folder_works_under_another_name(tmp_path: Path) -> None:
    """The node image installs it as ``ringfence_runtime``."""
    (tmp_path / "ringfence_runtime").symlink_to(ROOT / "runtime")
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import ringfence_runtime.aliases as aliases
        aliases.install()
        import folder_paths, comfy_execution.graph
        from ringfence_runtime.blocker import ExecutionBlocker
        assert folder_paths is sys.modules["ringfence_runtime.compat.folder_paths"]
        assert comfy_execution.graph.ExecutionBlocker is ExecutionBlocker
        assert "runtime" not in sys.modules
    """
    subprocess.run([sys.executable, "-I", "-c", dedent(code), str(tmp_path)], check=True, timeout=120)
