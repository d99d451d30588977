"""What is said of a module that a pack imports and that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.load_hints import module_hint

pytestmark = pytest.mark.anyio

LEFT_OUT = "left out: py-wget, some_thing (not in the package index ...)"


async def ask(module: str) -> str:
    if module == "transformers":
        return "add the package that has it to the pack's requirements.txt"
    return f"the image says what to do about {module}"


async def hint(module: str, pack: Path, *notes: str) -> str | None:
    return await module_hint(f"ModuleNotFoundError: No module named '{module}'", notes, pack, ask)


async def test_a_part_of_the_pack_that_a_submodule_would_have_brought_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "modules/impact").mkdir(parents=True)
    (tmp_path / "helpers.py").touch()
    for module in ("impact.subpack_nodes", "helpers.more"):
        said = await hint(module, tmp_path, LEFT_OUT)
        assert said is not None
        assert f"'{module}' is a part of the pack itself" in said
        assert "git submodules" in said
        assert "requirements.txt" not in said


async def test_a_relative_import_of_what_is_not_there_is_one_of_a_part_of_the_pack(tmp_path: Path) -> None:
    said = await hint("/app/custom_nodes/reader_x_1.prompts.parser", tmp_path)
    assert said is not None
    assert said.startswith("'prompts.parser' is a part of the pack itself")


async def test_a_file_that_the_pack_looks_for_in_its_own_folder_is_a_part_of_it(tmp_path: Path) -> None:
    said = await module_hint(
        "FileNotFoundError: [Errno 2] No such file or directory: "
        "'/app/custom_nodes/Upscale_Pack/repositories/upscaler'",
        (),
        tmp_path,
        ask,
    )
    assert said is not None
    assert said.startswith("'repositories/upscaler' is a part of the pack itself")
    assert await module_hint("No such file or directory: '/app/models/x.pt'", (), tmp_path, ask) is None


async def test_what_was_left_out_says_why_by_whole_names_only(tmp_path: Path) -> None:
    assert await hint("some_thing", tmp_path, "a note", LEFT_OUT) == LEFT_OUT
    assert await hint("some_thing.part", tmp_path, LEFT_OUT) == LEFT_OUT
    for other in ("thing", "wget", "git"):
        assert await hint(other, tmp_path, LEFT_OUT) == f"the image says what to do about {other}"


async def test_a_missing_module_of_a_package_that_is_there_is_a_matter_of_its_version(tmp_path: Path) -> None:
    said = await hint("transformers.models.gone", tmp_path)
    assert said is not None
    assert "the package that has 'transformers' is there, but not with 'transformers.models.gone'" in said

    assert await hint("torchvision.ops", tmp_path) == "the image says what to do about torchvision"


async def test_a_name_that_an_installed_package_does_not_have_is_a_matter_of_its_version(
    tmp_path: Path,
) -> None:
    message = "ImportError: cannot import name 'pad' from 'kornia.pyramid' "
    said = await module_hint(f"{message}(/ringfence/env/kornia/pyramid.py)", (), tmp_path, ask)
    assert said is not None
    assert "the package that has 'kornia' is there, but not with 'kornia.pyramid.pad'" in said
    assert "Name that version in the pack's requirements.txt" in said
    assert await module_hint(f"{message}(/app/custom_nodes/p/kornia.py)", (), tmp_path, ask) is None


async def test_another_error_gets_no_such_hint(tmp_path: Path) -> None:
    assert await module_hint("ValueError: no", (), tmp_path, ask) is None
