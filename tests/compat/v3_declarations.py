"""Compare how ComfyUI's own V3 nodes declare themselves through its API and through ours.

    python tests/compat/v3_declarations.py CHECKOUT [--python PYTHON]

Every ``comfy_extras/nodes_*.py`` of CHECKOUT with a V3 entry point is loaded twice, in processes of their own: by
PYTHON against the checkout's ``comfy_api`` (which needs torch and what it imports), and here against the stand-ins.
For each class the entry for ``/object_info``, ``INPUT_TYPES()`` and V1's attributes must be the same; keys that newer
versions added to the entry may be there. What a module imports of models is a stub on both sides. Nothing of the
checkout is copied and nothing is written into it.

Exit status: 0 when everything that both sides could load is the same, 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

ROOT = Path(__file__).resolve().parents[2]
ATTRIBUTES = """RETURN_TYPES RETURN_NAMES OUTPUT_IS_LIST FUNCTION CATEGORY DESCRIPTION OUTPUT_NODE INPUT_IS_LIST
DEPRECATED EXPERIMENTAL API_NODE NOT_IDEMPOTENT OUTPUT_TOOLTIPS""".split()  # noqa: SIM905 - reads better
NEWER = frozenset(
    {
        "essentials_category", "has_intermediate_output", "price_badge", "dev_only", "is_input_list",
        "search_aliases", "output_matchtypes",
    }
)  # fmt: skip
MODELS = ("comfy.sd", "comfy.text_encoders", "comfy.supported_models", "comfy.model_detection", "comfy.model_base",
          "comfy.samplers", "comfy.sample", "nodes", "torchvision")  # fmt: skip


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Model code, which no declaration needs."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        del path, target
        if any(fullname == name or fullname.startswith(name + ".") for name in MODELS):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        made = MagicMock(name=spec.name)
        made.__path__ = []
        made.__spec__ = spec
        made.MAX_RESOLUTION = 16384
        return made

    def exec_module(self, module: Any) -> None:
        del module


def dump(side: str, checkout: Path, target: Path) -> None:
    """Write what every class says; in a process of its own."""
    if side == "theirs":
        os.chdir(checkout)
        sys.path.insert(0, str(checkout))
        sys.argv = ["main.py", "--cpu"]
        sys.meta_path.insert(0, Stubs())
        importlib.import_module("comfy.options").enable_args_parsing()
    else:
        sys.path.insert(0, str(ROOT))
        importlib.import_module("runtime.aliases").install()
        importlib.import_module("runtime.compat._standins").install("runtime.compat")
    importlib.import_module("comfy_api.latest")
    files = sorted((checkout / "comfy_extras").glob("nodes_*.py"))
    found = {file.stem: declared(file) for file in files if "comfy_entrypoint" in file.read_text()}
    target.write_text(json.dumps(found, default=str, sort_keys=True))


def declared(file: Path) -> dict[str, Any]:
    try:
        spec = importlib.util.spec_from_file_location(f"compared_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        extension = module.comfy_entrypoint()
        if inspect.isawaitable(extension):
            extension = asyncio.run(_result(extension))
        return {cls.__name__: one(cls) for cls in asyncio.run(extension.get_node_list())}
    except Exception as error:
        return {"cannot load": f"{type(error).__name__}: {error}"}


async def _result(coroutine: Any) -> Any:
    return await coroutine


def one(cls: Any) -> Any:
    try:
        info = cls.GET_NODE_INFO_V1()
        info = info if isinstance(info, dict) else vars(info)
        info.pop("python_module", None)
        return {
            "info": info,
            "inputs": cls.INPUT_TYPES(),
            **{name: getattr(cls, name) for name in ATTRIBUTES},
        }
    except Exception as error:
        return {"cannot load": f"{type(error).__name__}: {error}"}


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> int:
    """Print what differs; the number of classes that do."""
    same, differ, unknown = 0, 0, []
    for module, classes in theirs.items():
        for name, said in [("", classes)] if "cannot load" in classes else classes.items():
            mine = ours[module] if not name or "cannot load" in ours[module] else ours[module].get(name, {})
            for side, answer in (("theirs", said), ("ours", mine)):
                if "cannot load" in answer:
                    unknown.append(f"{module}.{name}: {side}: {answer['cannot load']}"[:200])
                    break
            else:
                mine["info"] = {
                    key: value
                    for key, value in mine["info"].items()
                    if key in said["info"] or key not in NEWER
                }
                wrong = [key for key in said if said[key] != mine.get(key)]
                same, differ = same + (not wrong), differ + bool(wrong)
                for key in wrong:
                    print(f"{module}.{name}: {key}:\n  theirs {said[key]}\n  ours   {mine.get(key)}")
    print(
        f"{same} classes declare themselves the same, {differ} do not; {len(unknown)} could not be compared:"
    )
    print("\n".join(f"  {line}" for line in unknown))
    return differ if same else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="a checkout of ComfyUI")
    parser.add_argument(
        "--python", default=sys.executable, help="the interpreter that runs the checkout's API"
    )
    parser.add_argument("--dump", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    if options.dump:
        dump(options.dump[0], checkout, Path(options.dump[1]))
        return 0
    if not (checkout / "comfy_api").is_dir():
        print(f"{options.checkout} is no checkout of ComfyUI: it has no comfy_api", file=sys.stderr)
        return 2
    sides: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ringfence-v3-") as name:
        for side, python in (("theirs", options.python), ("ours", sys.executable)):
            file = Path(name, side)
            command = [python, "-B", __file__, str(checkout), "--dump", side, str(file)]
            subprocess.run(command, check=True, cwd=name)
            sides[side] = json.loads(file.read_text())
    return 1 if compare(sides["theirs"], sides["ours"]) else 0


if __name__ == "__main__":
    sys.exit(main())
