"""folder_paths in a real container whose policy gives less than packs expect: refused clearly, never lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import NodeRaisedError
from tests.contract.kit import in_docker, world

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

CODE = """
import folder_paths

class Paths:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"what": ("STRING", {})}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "t"
    def run(self, what):
        return (str(eval(what, {"fp": folder_paths})),)
NODE_CLASS_MAPPINGS = {"Paths": Paths}
"""
POLICY = "memory: 512MiB\npaths: [{tenant: temp, access: rw}]\n"


async def test_what_the_policy_does_not_give_is_refused_by_name_and_what_it_gives_works(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, in_docker, policies={"pack": POLICY}) as at:
        at.shelf.write("pack", CODE)
        with pytest.raises(NodeRaisedError, match=r"no path in 'output'.*\{tenant: output, access: rw\}"):
            await at.run("pack", "Paths", what="fp.get_save_image_path('x', fp.get_output_directory())")
        with pytest.raises(NodeRaisedError, match=r"no path in 'models'"):
            await at.run("pack", "Paths", what="fp.get_full_path_or_raise('loras', 'a.safetensors')")
        saved = await at.run(
            "pack", "Paths", what="fp.get_save_image_path('x', fp.get_temp_directory())[1:3]"
        )
        assert saved.slots is not None
        assert saved.slots[0][0].tree == "('x', 1)"
        empty = await at.run("pack", "Paths", what="fp.get_filename_list('loras')")
        assert empty.slots is not None
        assert empty.slots[0][0].tree == "[]"
