"""Where a pack's dependencies come from, and what its manifests ask for in vain."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.environment_errors import DependencyRefusedError
from sandbox.manifests import read_declared


def wanted(pack: Path) -> list[str]:
    return [str(item.requirement) for item in read_declared(pack).wanted]


def test_a_pack_without_files_wants_nothing(pack: Path) -> None:
    assert read_declared(pack).wanted == ()


def test_pyproject_dependencies_are_read(pack: Path) -> None:
    (pack / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["numpy<2", "tqdm"]\n')
    assert wanted(pack) == ["numpy<2", "tqdm"]


@pytest.mark.parametrize("name", ["pyisolate.yaml", "manifest.yaml"])
def test_an_isolation_manifest_is_read_and_its_other_wishes_are_shown(pack: Path, name: str) -> None:
    (pack / name).write_text(
        "name: nodes\nversion: 1.0.0\nisolated: true\nshare_torch: true\nnetwork: [example.com]\n"
        "dependencies:\n  - numpy==1.26.4\n  - deepdiff>=1.0\n"
    )
    declared = read_declared(pack)
    assert [str(item.requirement) for item in declared.wanted] == ["numpy==1.26.4", "deepdiff>=1.0"]
    assert declared.wanted[0].place == f"{name} dependencies[1]"
    assert declared.asks == (
        f"{name}: isolated = true",
        f"{name}: share_torch = true",
        f'{name}: network = ["example.com"]',
    )


def test_tables_in_pyproject_are_manifests_too(pack: Path) -> None:
    (pack / "pyproject.toml").write_text(
        '[project]\nname = "x"\ndependencies = ["tqdm"]\n'
        '[tool.pyisolate]\nisolated = true\ndependencies = ["numpy<2"]\n'
        "[tool.comfy.isolation]\ncan_isolate = true\nsandbox = {writable = ['/etc']}\n"
    )
    declared = read_declared(pack)
    assert [str(item.requirement) for item in declared.wanted] == ["numpy<2", "tqdm"]
    assert declared.asks == (
        "pyproject.toml [tool.pyisolate]: isolated = true",
        "pyproject.toml [tool.comfy.isolation]: can_isolate = true",
        'pyproject.toml [tool.comfy.isolation]: sandbox = {"writable": ["/etc"]}',
    )


def test_all_sources_are_added_up_and_the_most_specific_decides_about_a_package(pack: Path) -> None:
    (pack / "requirements.txt").write_text("NumPy\ntqdm>=4\n")
    (pack / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["tqdm", "einops"]\n')
    (pack / "pyisolate.yaml").write_text("isolated: true\ndependencies: [numpy==1.26.4]\n")
    declared = read_declared(pack)
    assert [str(item.requirement) for item in declared.wanted] == ["numpy==1.26.4", "tqdm>=4", "einops"]
    assert declared.notes == (
        "requirements.txt:1: 'NumPy' is overruled by 'numpy==1.26.4'",
        "pyproject.toml [project] dependencies[1]: 'tqdm' is overruled by 'tqdm>=4'",
    )


def test_the_extras_of_a_package_are_added_up(pack: Path) -> None:
    (pack / "requirements.txt").write_text("dynamicprompts==0.30.2\n")
    (pack / "pyproject.toml").write_text(
        '[project]\nname = "x"\ndependencies = ["dynamicprompts[magicprompt]~=0.30.2"]\n'
    )
    declared = read_declared(pack)
    assert [str(item.requirement) for item in declared.wanted] == ["dynamicprompts[magicprompt]==0.30.2"]
    (note,) = declared.notes
    assert note.endswith(
        "is overruled by 'dynamicprompts[magicprompt]==0.30.2' (and [magicprompt] of it stays)"
    )


def test_one_package_may_stand_on_two_lines_of_one_file(pack: Path) -> None:
    (pack / "requirements.txt").write_text(
        "numpy<2; python_version < '3.12'\nnumpy>=2; python_version >= '3.12'\n"
    )
    assert len(wanted(pack)) == 2


def test_a_manifest_yaml_of_another_tool_is_ignored(pack: Path) -> None:
    (pack / "manifest.yaml").write_text("apiVersion: v1\nitems: *broken\n")
    assert read_declared(pack).asks == ()
    (pack / "manifest.yaml").write_text("- a\n- b\n")
    assert read_declared(pack).wanted == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: [*x, *x]\n", "aliases"),
        ("isolated: true\ndependencies: numpy\n", "not a list"),
        ("isolated: true\ndependencies: [1]\n", "is not text"),
        ("isolated: true\ndependencies: ['-e .']\n", "not allowed"),
        ("isolated: true\ndependencies: ['git+https://host.example/x']\n", "URL"),
        ("isolated: [\n", "cannot be read"),
        ("just text\n", "not an isolation manifest"),
        ("a: !!python/object:os.system x\n", "cannot be read"),
    ],
)
def test_a_wrong_manifest_is_refused_by_name(pack: Path, text: str, message: str) -> None:
    (pack / "pyisolate.yaml").write_text(text)
    with pytest.raises(DependencyRefusedError, match=message) as caught:
        read_declared(pack)
    assert "pyisolate.yaml" in caught.value.place


@pytest.mark.parametrize("text", ["[project\n", "[project]\ndependencies = 'numpy'\n", "x = " + "[" * 10_000])
def test_a_wrong_pyproject_is_refused(pack: Path, text: str) -> None:
    (pack / "pyproject.toml").write_text(text)
    with pytest.raises(DependencyRefusedError):
        read_declared(pack)


def test_a_wish_is_shown_safely(pack: Path) -> None:
    (pack / "pyisolate.yaml").write_text('isolated: true\n"\\e[31mred": "\\e[2J"\n')
    assert not any("\x1b" in ask for ask in read_declared(pack).asks)


def test_an_install_script_is_not_run_and_that_is_said(pack: Path) -> None:
    (pack / "install.py").write_text("open('/tmp/ringfence-install-ran', 'w')\n")
    (note,) = read_declared(pack).notes
    assert note.startswith("install.py is not run")
    assert not Path("/tmp/ringfence-install-ran").exists()
