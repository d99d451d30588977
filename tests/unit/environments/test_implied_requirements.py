"""What a pack's files import of ComfyUI's own requirements; read as text and to a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import implied_requirements
from sandbox.implied_requirements import read_implied


def implied(pack: Path) -> list[str]:
    return [f"{item.requirement} @ {item.place}" for item in read_implied(pack)]


def test_imports_of_any_form_are_found_with_the_first_file_that_has_them(tmp_path: Path) -> None:
    (tmp_path / "py").mkdir()
    (tmp_path / "a.py").write_text("import os\nfrom transformers import AutoModel\n")
    (tmp_path / "py" / "b.py").write_text("def f():\n\timport requests, json\n    import transformers\n")
    (tmp_path / "py" / "c.py").write_text("import av.container as c\r\nfrom pydantic_settings import X\n")
    assert implied(tmp_path) == [
        "av>=14.2 @ py/c.py",
        "pydantic-settings~=2.0 @ py/c.py",
        "requests @ py/b.py",
        "transformers>=4.37.2 @ a.py",
    ]


@pytest.mark.parametrize(
    "text",
    ["import requests_toolbelt\n", "# import requests\n", "x = 'import requests'\n", "import os, sys\n", ""],
)
def test_what_only_looks_like_an_import_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.py").write_text(text)
    assert implied(tmp_path) == []


def test_tests_hidden_folders_links_and_other_files_do_not_count(tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    pack = tmp_path / "pack"
    for folder in ("tests", ".git"):
        (pack / folder).mkdir(parents=True)
        (pack / folder / "a.py").write_text("import requests\n")
    outside.write_text("import requests\n")
    (pack / "link.py").symlink_to(outside)
    (pack / "readme.md").write_text("import requests\n")
    assert implied(pack) == []


def test_only_so_much_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("#" * 100 + "\nimport requests\n")
    (tmp_path / "b.py").write_text("import av\n")
    monkeypatch.setattr(implied_requirements, "_MAX_FILE", 50)
    assert implied(tmp_path) == ["av>=14.2 @ b.py"]
    monkeypatch.setattr(implied_requirements, "_MAX_BYTES", 50)
    assert implied(tmp_path) == []
    monkeypatch.setattr(implied_requirements, "_MAX_FILES", 0)
    assert implied(tmp_path) == []


def test_bytes_that_are_no_text_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xff\xfe\x00\nimport requests\n\x80")
    assert implied(tmp_path) == ["requests @ a.py"]
