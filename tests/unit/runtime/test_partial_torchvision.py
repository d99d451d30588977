"""torchvision without its compiled operators: what is declared in their place, and what is left alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from runtime import partial_torchvision
from runtime.partial_torchvision import OperatorAbsentError, PartialFinder


@pytest.fixture
def watched() -> Iterator[None]:
    """The finder is in place for one test, and the stand-in for torchvision gone afterwards."""
    before = list(sys.meta_path)
    partial_torchvision.install()
    partial_torchvision.install()
    assert sum(isinstance(finder, PartialFinder) for finder in sys.meta_path) == 1
    yield
    sys.meta_path[:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def make_torchvision(root: Path, monkeypatch: pytest.MonkeyPatch, *, loads: bool) -> ModuleType:
    """A package that looks like torchvision to the finder."""
    package = root / "torchvision"
    (package / "io").mkdir(parents=True)
    (package / "__init__.py").write_text("from . import extension\n")
    (package / "extension.py").write_text(f"def _has_ops():\n    return {loads}\n")
    (package / "io" / "__init__.py").write_text("")
    (package / "io" / "image.py").write_text(
        f"def _has_image_ops():\n    return {loads}\n"
        "def _assert_has_image_ops():\n    pass\n"
        "def read_image():\n    _assert_has_image_ops()\n    return 'read'\n"
    )
    monkeypatch.syspath_prepend(str(root))
    return importlib.import_module("torchvision")


def test_operators_are_declared_where_the_libraries_do_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: None
) -> None:
    torchvision = make_torchvision(tmp_path, monkeypatch, loads=False)
    assert torchvision.extension._has_ops()
    assert torch.ops.torchvision._cuda_version() == -1
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert torch.ops.torchvision.nms(boxes, scores, 0.5).tolist() == [1, 2]
    with pytest.raises(OperatorAbsentError, match=r"torchvision\.ops\.box_iou_rotated .* 'full'"):
        torch.ops.torchvision.box_iou_rotated(boxes, boxes)
    image = importlib.import_module("torchvision.io.image")
    with pytest.raises(OperatorAbsentError, match=r"torchvision\.io\.read_image: .* PIL"):
        image.read_image()


def test_a_torchvision_whose_libraries_load_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: None
) -> None:
    torchvision = make_torchvision(tmp_path, monkeypatch, loads=True)
    assert not hasattr(torchvision.extension, "_ringfence_operators")
    assert importlib.import_module("torchvision.io.image").read_image() == "read"


def overlap(one: list[float], two: list[float]) -> float:
    width = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
    height = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize("seed", range(5))
def test_nms_keeps_what_the_definition_keeps(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(60, 2, generator=random, dtype=torch.float64) * 40
    boxes = torch.cat([corner, corner + 1 + torch.rand(60, 2, generator=random, dtype=torch.float64) * 20], 1)
    scores = torch.rand(60, generator=random, dtype=torch.float64)
    kept: list[int] = []
    for index in sorted(range(60), key=lambda i: -float(scores[i])):
        if all(overlap(boxes[index].tolist(), boxes[k].tolist()) <= 0.3 for k in kept):
            kept.append(index)
    assert partial_torchvision.nms(boxes, scores, 0.3).tolist() == kept


def test_nms_of_nothing_is_nothing() -> None:
    assert partial_torchvision.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_nms_refuses_what_are_no_boxes() -> None:
    with pytest.raises(RuntimeError, match=r"\[N, 4\]"):
        partial_torchvision.nms(torch.zeros(2, 5), torch.zeros(2), 0.5)
    with pytest.raises(RuntimeError, match="one for each of 2"):
        partial_torchvision.nms(torch.zeros(2, 4), torch.zeros(3), 0.5)


def test_a_library_of_torchaudio_that_cannot_be_loaded_is_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: None, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "torchaudio"
    (package / "_extension").mkdir(parents=True)
    (package / "__init__.py").write_text("from ._extension import found\n")
    (package / "_extension" / "__init__.py").write_text(
        "from .utils import _load_lib\nfound = [_load_lib(name) for name in ('good', 'none', 'bad')]\n"
    )
    (package / "_extension" / "utils.py").write_text(
        "def _load_lib(name):\n"
        "    if name == 'bad':\n"
        "        raise OSError('libcudart.so.13: cannot open shared object file')\n"
        "    return name == 'good'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert importlib.import_module("torchaudio").found == [True, False, False]
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
    said = capsys.readouterr().err
    assert said.startswith("torchaudio goes on without its compiled part")
    assert "libcudart.so.13" in said
