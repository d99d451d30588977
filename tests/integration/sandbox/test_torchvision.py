"""torchvision inside a real sandbox of whatever image variant there is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandbox import NodeRaisedError
from tests.contract.fixtures import IMAGE
from tests.contract.kit import in_docker, world

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

PACK = """
import numpy as np
import torch
import torchvision
import torchvision.transforms as T
import torchvision.transforms.functional as F
from PIL import Image
from torchvision.transforms import v2

class Base:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "t"

class Transforms(Base):
    def run(self):
        image = Image.new("RGB", (4, 2), (255, 51, 0))
        tensor = T.ToTensor()(image)
        ramp = torch.arange(16.0).reshape(1, 4, 4)
        found = [
            tensor.shape == (3, 2, 4) and torch.allclose(tensor[:, 0, 0], torch.tensor([1.0, 0.2, 0.0])),
            torch.equal(F.hflip(ramp), ramp.flip(2)),
            torch.equal(T.CenterCrop(2)(ramp), ramp[:, 1:3, 1:3]),
            torch.allclose(F.resize(ramp, [2, 2], antialias=False), torch.tensor([[[2.5, 4.5], [10.5, 12.5]]])),
            F.to_pil_image(tensor).tobytes() == image.tobytes(),
            torch.equal(v2.functional.pad(ramp, [1, 0, 0, 0])[:, :, 0], torch.zeros(1, 4)),
            torch.allclose(T.Normalize([1.0], [2.0])(ramp), (ramp - 1) / 2),
            torchvision.models.resnet18(weights=None).fc.out_features == 1000,
            torchvision.utils.make_grid(torch.zeros(4, 3, 2, 2), padding=0).shape == (3, 2, 8),
        ]
        return (str([bool(item) for item in found]),)

class Nms(Base):
    def run(self):
        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
        return (str(torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist()),)

class RoiAlign(Base):
    def run(self):
        box = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]])
        return (str(list(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), box, 2).shape)),)

NODE_CLASS_MAPPINGS = {"Transforms": Transforms, "Nms": Nms, "RoiAlign": RoiAlign}
"""


def image_says(section: str) -> bool:
    """Whether the image's list of packages has torchvision in a section."""
    facts = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", IMAGE, "cat", "/opt/venv/ringfence-image.json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    return '"torchvision"' in facts.partition(f'"{section}": {{')[2].partition("}")[0]


async def test_a_pack_uses_torchvisions_python_part_and_is_told_where_the_compiled_part_is(
    engine: None, tmp_path: Path
) -> None:
    if not image_says("packages"):
        pytest.skip("this image has no torchvision at all: its build reached no index that has one")
    async with world(
        tmp_path, in_docker, policies={"pack": "memory: 2GiB\ntimeouts: {import: 120s}\n"}
    ) as at:
        at.shelf.write("pack", PACK)
        result = await at.run("pack", "Transforms")
        assert result.slots is not None
        assert result.slots[0][0].tree == str([True] * 9)
        result = await at.run("pack", "Nms")
        assert result.slots is not None
        assert result.slots[0][0].tree == "[1, 2]"
        if not image_says("partial"):
            result = await at.run("pack", "RoiAlign")
            assert result.slots is not None
            assert result.slots[0][0].tree == "[1, 1, 2, 2]"
            return
        with pytest.raises(NodeRaisedError) as caught:
            await at.run("pack", "RoiAlign")
    assert "torchvision.ops.roi_align needs torchvision's compiled operators" in caught.value.message
    assert "image variant 'cpu' does not have; image variant 'full'" in caught.value.message
