"""What outlives a sandbox: the state of its nodes; and what sandboxes share: files of weights. In real containers."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from engine.database import Database, sqlite_url
from engine.node_state import NodeStateStore
from policies import TenantId
from sandbox import NodeRaisedError
from tests.contract.kit import PACKS, TENANT, World, call, ignore, in_docker, world

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
OTHER = TenantId("other")
MODELS = "paths: [{tenant: models}]\nmemory: 1GiB\ntimeouts: {import: 180s, call: 180s, grace: 1s}\n"
WRITER = "paths: [{tenant: output, access: rw}]\nmemory: 1GiB\n"
MIB = 1 << 20


def safetensors(path: Path, tensors: dict[str, np.ndarray], **more: Any) -> Path:
    """Write a file as the format says."""
    header: dict[str, Any] = {"__metadata__": {"made": "by a test"}, **more}
    data = b""
    for name, array in tensors.items():
        header[name] = {
            "dtype": {"float32": "F32", "uint8": "U8"}[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def at(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("kept")
    policies = {
        "keeper": MODELS,
        f"tenants/{OTHER}/keeper": MODELS,
        "twin": MODELS,
        "blind": "paths: []\nmemory: 1GiB\n",
        "writer": WRITER,
    }
    async with (
        Database(sqlite_url(directory / "ringfence.db")) as database,
        world(directory, in_docker, policies=policies, states=NodeStateStore(database)) as made,
    ):
        for tenant in (TENANT, OTHER):
            for name in policies:
                made.shelf.add(PACKS / "keeper", name, tenant)
        yield made


def models(at: World, tenant: TenantId = TENANT) -> Path:
    return at.places.tenant(tenant) / "models" / "loras"


async def run(
    at: World, class_type: str, node_id: str = "1", /, extension: str = "keeper", **inputs: Any
) -> Any:
    """One call; the first value of its first output."""
    tenant = inputs.pop("tenant", TENANT)
    session = await at.session(extension, tenant)
    with anyio.fail_after(180):
        result = await session.execute(call(class_type, inputs, node_id=node_id), ignore)
    assert result.slots is not None
    return result.slots[0][0].tree


async def restart(at: World, extension: str = "keeper", tenant: TenantId = TENANT) -> None:
    """End the extension's sandbox; the next call gets another."""
    session = await at.session(extension, tenant)
    await at.manager.stop(tenant, session.sandbox)


async def test_state_survives_the_death_of_its_sandbox(at: World) -> None:
    first = (await at.session("keeper")).sandbox
    assert await run(at, "RFCount") == 1
    assert await run(at, "RFCount") == 2
    await restart(at)
    assert await run(at, "RFCount") == 3
    assert (await at.session("keeper")).sandbox != first


async def test_state_belongs_to_one_node_of_one_class_of_one_extension_of_one_tenant(at: World) -> None:
    assert await run(at, "RFCount", "own") == 1
    assert await run(at, "RFCount", "its neighbour") == 1
    assert await run(at, "RFCountAsync", "own") == 1
    assert await run(at, "RFCount", "own", extension="twin") == 1
    assert await run(at, "RFCount", "own", tenant=OTHER) == 1
    assert await run(at, "RFCount", "own") == 2


async def test_what_is_changed_inside_a_kept_list_is_kept(at: World) -> None:
    assert await run(at, "RFRemember", value="a") == ["a"]
    await restart(at)
    assert await run(at, "RFRemember", value={"b": [1, True, None, 2.5]}) == [
        "a",
        {"b": [1, True, None, 2.5]},
    ]


async def test_attributes_that_are_unset_read_as_none(at: World) -> None:
    assert await run(at, "RFUnset") == [None, None, 5, None]
    assert await run(at, "RFForget") == [7, False, []]


async def test_state_over_its_limit_is_an_error_of_the_node_with_the_figures(at: World) -> None:
    with pytest.raises(NodeRaisedError, match="may keep 131072 bytes of state, this one would keep 20"):
        await run(at, "RFKeep", value=["x" * 1000] * 200)
    with pytest.raises(NodeRaisedError, match=r"state attribute kept\.list\[1\] is a object"):
        await run(at, "RFKeepObject")


async def test_two_sandboxes_of_a_tenant_share_the_bytes_of_one_file(at: World) -> None:
    count = 4 * MIB
    safetensors(models(at) / "big.safetensors", {"w": np.full(count, 0.5, "float32")})
    before = at.store.usage(TENANT).bytes
    (total, first), (again, second) = (
        await run(at, "RFMapped", file="big.safetensors"),
        await run(at, "RFMapped", extension="twin", file="big.safetensors"),
    )
    assert total == again == count / 2
    assert at.store.usage(TENANT).bytes - before < 4 * count + 2 * MIB
    shelf = at.manager._around.resources
    assert shelf is not None
    (copy,) = [copy for version, copy in shelf._copies.items() if version.nbytes > MIB]
    assert len(copy.borrowers) == 2
    names = [at.places.inbox(sandbox) / str(copy.object_id) for sandbox in copy.borrowers]
    assert len({(name.stat().st_dev, name.stat().st_ino) for name in names}) == 1
    for seen in (first, second):
        assert seen["Rss"] >= 4 * count // 1024
        assert seen["Anonymous"] == 0


async def test_writing_into_a_resource_changes_that_nodes_own_copy(at: World) -> None:
    safetensors(
        models(at) / "a.safetensors", {"w": np.arange(3, dtype="float32"), "none": np.empty(0, "uint8")}
    )
    assert await run(at, "RFSpoil") == [0, 1, 2]
    assert await run(at, "RFWeights", extension="twin") == {"w": [0, 1, 2], "none": []}


async def test_a_file_that_changed_is_read_anew_and_the_old_bytes_go_with_their_last_sandbox(
    at: World,
) -> None:
    path = safetensors(models(at) / "c.safetensors", {"w": np.zeros(2, "float32")})
    assert await run(at, "RFWeights", file="c.safetensors") == {"w": [0, 0]}
    path.unlink()
    safetensors(path, {"w": np.ones(3, "float32")})
    assert await run(at, "RFWeights", file="c.safetensors") == {"w": [1, 1, 1]}
    for extension in ("keeper", "twin"):
        await restart(at, extension)
    shelf = at.manager._around.resources
    assert shelf is not None
    assert not shelf._copies


async def test_a_file_that_is_missing_gives_the_default_or_an_error_that_names_file_and_policy(
    at: World,
) -> None:
    assert await run(at, "RFWeightsOr", file="none.safetensors") == "the default"
    assert await run(at, "RFWeightsOr", folder="no folder", file="x.safetensors") == "the default"
    with pytest.raises(
        NodeRaisedError, match=r"no file 'none.safetensors' in the model folder 'loras'.*policy"
    ):
        await run(at, "RFWeights", file="none.safetensors")


async def test_a_sandbox_without_models_in_its_policy_gets_none_of_them(at: World) -> None:
    safetensors(models(at) / "a.safetensors", {"w": np.arange(3, dtype="float32")})
    assert await run(at, "RFWeightsOr", extension="blind") == "the default"
    said = await run(at, "RFAsk", extension="blind", value="/app/models/loras/a.safetensors")
    assert said.startswith("-32010: the policy mounts nothing at '/app/models/loras/a.safetensors' (")
    assert "blind.yaml" in said


async def test_a_pack_whose_descriptions_fill_several_messages_loads_whole(at: World) -> None:
    code = """
names = [f"a model with quite a long name, number {number}.safetensors" for number in range(20_000)]
class Big:
    RETURN_TYPES, FUNCTION, CATEGORY = ("INT",), "run", "t"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": (names,)}})
    def run(self, model):
        return (names.index(model),)
NODE_CLASS_MAPPINGS = {f"Big{number}": Big for number in range(8)}
"""
    at.shelf.write("big", code)
    session = await at.session("big")
    assert len(session.loaded.nodes) == 8
    assert not session.loaded.skipped
    assert len(await session.describe()) == 8
    assert {len(node.info["input"]["required"]["model"][0]) for node in session.loaded.nodes} == {20_000}


async def test_a_file_in_a_packs_own_folder_is_found_where_the_pack_sees_it(at: World) -> None:
    session = await at.session("writer")  # makes its folder
    assert session.is_alive
    output = at.places.tenant(TENANT) / "output"
    path = safetensors(output / "writer" / "mine.safetensors", {"w": np.zeros(2, "float32")})
    safetensors(output / "twin" / "others.safetensors", {"w": np.zeros(2, "float32")})
    found = await run(at, "RFAsk", extension="writer", value="/app/output/mine.safetensors")
    assert found["nbytes"] == path.stat().st_size
    for nowhere in ("writer/mine", "twin/others", "others"):
        said = await run(at, "RFAsk", extension="writer", value=f"/app/output/{nowhere}.safetensors")
        assert said.startswith("-32009: there is no file")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/app/models/../../../../etc/passwd", "climbs with '..'"),
        ("/app/models/loras/link.safetensors", "cannot be opened safely"),
        ("/app/models/loras/text.safetensors", "is no safetensors file"),
        (
            "/app/models/loras/liar.safetensors",
            "is no whole safetensors file: tensor 'w' does not lie in its",
        ),
        ("/app/models/loras", "is not a regular file"),
        ("/etc/passwd", "the policy mounts nothing at '/etc/passwd'"),
        ("/app/models/loras/gone", "-32009: there is no file"),
    ],
)
async def test_a_hostile_path_is_refused(at: World, path: str, said: str) -> None:
    folder = models(at)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.safetensors").write_text("root:x:0:0:root:/root:/bin/bash\n" * 4)
    if not (folder / "link.safetensors").is_symlink():
        (folder / "link.safetensors").symlink_to("/etc/passwd")
    liar = {"w": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}
    safetensors(folder / "liar.safetensors", {}, **liar)
    assert said in await run(at, "RFAsk", value=path)


async def test_tenants_do_not_share_copies(at: World) -> None:
    safetensors(models(at) / "a.safetensors", {"w": np.arange(3, dtype="float32")})
    assert await run(at, "RFWeightsOr", tenant=OTHER) == "the default"
    safetensors(models(at, OTHER) / "a.safetensors", {"w": np.full(2, 9, "float32")})
    assert await run(at, "RFWeights", tenant=OTHER) == {"w": [9, 9]}
    assert await run(at, "RFWeights") == {"w": [0, 1, 2]}
