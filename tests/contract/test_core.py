"""The core extension in a real container, as the host uses it: nodes for prompts, and helpers for its own routes."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import pytest
from PIL import Image

from engine import Media
from policies import ExtensionName, TenantId
from sandbox import NodeRaisedError
from tests.contract.kit import CHECKOUT, TENANT, World, in_docker, tensor_of, world

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
POLICY = (CHECKOUT / "policies" / "core.yaml").read_text()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def core(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("core"), in_docker, policies={"core": POLICY}) as made:
        made.shelf.add(CHECKOUT / "extensions" / "core")
        output = made.places.tenant(TENANT) / "output"
        output.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (8, 6), (250, 100, 0, 128)).save(output / "a.png")
        yield made


def content(made: World, value: Any) -> bytes:
    file = value.tree["$bytes"]
    return (made.store._places.store / file["file"]).read_bytes()[: file["nbytes"]]


async def test_every_core_node_is_described_and_the_helpers_are_not(core: World) -> None:
    session = await core.session("core")
    names = {node.class_type for node in session.loaded.nodes}
    assert {"LoadImage", "Canny", "ResizeImageMaskNode", "ComfyMathExpression", "RebatchLatents"} <= names
    assert "KSampler" not in names
    assert not [name for name in names if name.startswith("Ringfence")]
    assert len(names) > 150


async def test_nodes_of_both_styles_run(core: World) -> None:
    drawn = await core.run("core", "EmptyImage", width=16, height=8, batch_size=1, color=0xFF0000)
    assert drawn.slots is not None
    image = drawn.slots[0][0]
    red = (await core.run("core", "ImageToMask", image=image, channel="red")).slots
    assert red is not None
    assert tensor_of(red[0][0], core.store).min() == 1.0
    edges = (await core.run("core", "Canny", image=image, low_threshold=0.4, high_threshold=0.8)).slots
    assert edges is not None
    assert tensor_of(edges[0][0], core.store).shape == (1, 8, 16, 3)
    turned = (await core.run("core", "ComfyNotNode", value=0)).slots
    assert turned is not None
    assert turned[0][0].tree is True


async def test_a_picture_is_encoded_again_for_the_host(core: World) -> None:
    asked = {"filename": "a.png", "subfolder": "", "type": "output"}
    result = await core.run("core", "RingfencePreview", **asked, format="jpeg", quality=80, channel="")
    assert result.slots is not None
    (data,), (kind,) = result.slots
    assert kind.tree == "image/jpeg"
    with Image.open(io.BytesIO(content(core, data))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (8, 6))


async def test_a_models_picture_is_encoded_by_a_sandbox_that_sees_no_models(core: World) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "png")

    async def read() -> bytes:
        return buffer.getvalue()

    class OfTheWorld:
        async def acquire(self, _tenant: TenantId, extension: ExtensionName) -> Any:
            return await core.session(extension)

    media = Media(cast("Any", OfTheWorld()), core.store)
    with anyio.fail_after(60):
        data, kind = await media.cover(TENANT, read)
    assert kind == "image/webp"
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (6, 4))


async def test_the_helper_reads_no_file_of_the_sandbox_itself(core: World) -> None:
    asked = {"filename": "../../etc/passwd", "subfolder": "", "type": "output"}
    with pytest.raises(NodeRaisedError, match="outside of the output directory"):
        await core.run("core", "RingfencePreview", **asked, format="webp", quality=80, channel="")
