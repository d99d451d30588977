"""One side of the comparison, in a process of its own: a ComfyUI checkout, or Ringfence's core classes.

    side.py real|ours ROOT INPUT OUTPUT ANSWERS

Says ``{"info": ...}`` as one line, reads the path of a JSON file of cases, runs them, and leaves the outcomes in
``ANSWERS`` with ``torch.save``: plain data and tensors only, so that they can be loaded without trusting pickles.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import json
import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import values

#: Of a tensor with more values than this, so many are compared, and the sum of all.
_LARGE = 100_000


def main() -> None:
    side, root, inputs, outputs, answers = sys.argv[1:]
    sys.argv = ["main.py", "--cpu", "--disable-all-custom-nodes"]
    out = os.dup(1)
    os.dup2(2, 1)  # whatever prints while it is imported does not get between the answers
    os.chdir(root)
    sys.path.insert(0, root)
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    classes, labels = (_real if side == "real" else _ours)()
    import folder_paths

    directories = {name: Path(outputs) / name for name in ("output", "temp", "user")}
    for directory in directories.values():
        directory.mkdir(parents=True)
    folder_paths.input_directory = inputs
    folder_paths.output_directory = str(directories["output"])
    folder_paths.temp_directory = str(directories["temp"])
    folder_paths.user_directory = str(directories["user"])
    info = {}
    for name, cls in classes.items():
        with contextlib.suppress(Exception):
            info[name] = _info(name, cls, labels.get(name))
    os.write(out, json.dumps({"info": info}).encode() + b"\n")
    cases = json.loads(Path(sys.stdin.readline().strip()).read_text(encoding="utf-8"))
    import torch

    done = []
    for case in cases:
        outcome = _run(classes[case["node"]], case)
        outcome["files"] = _collect(directories, Path(outputs) / "kept", len(done))
        done.append(outcome)
    torch.save(done, answers)
    os.write(out, b"{}\n")
    os._exit(0)


def _real() -> tuple[dict[str, Any], dict[str, Any]]:
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.extra_config  # noqa: F401, I001 - first, as ComfyUI does: something later takes the name "utils"
    import nodes
    import server

    class Manager:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    class Server:
        instance: Any = None
        last_node_id = client_id = None
        node_replace_manager = Manager()

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    server.PromptServer.instance = Server()
    asyncio.run(nodes.init_builtin_extra_nodes())
    return dict(nodes.NODE_CLASS_MAPPINGS), dict(nodes.NODE_DISPLAY_NAME_MAPPINGS)


def _ours() -> tuple[dict[str, Any], dict[str, Any]]:
    from runtime import aliases

    aliases.install()
    import nodes

    return dict(nodes.CORE_CLASSES), dict(nodes.CORE_DISPLAY_NAMES)


def _is_v3(cls: Any) -> bool:
    return hasattr(cls, "GET_SCHEMA")


def _info(name: str, cls: Any, label: str | None) -> dict[str, Any]:
    """A node's entry of ``/object_info``, as far as it is compared."""
    if _is_v3(cls):
        entry = cls.GET_NODE_INFO_V1()
        entry = dataclasses.asdict(entry) if dataclasses.is_dataclass(entry) else dict(entry)
    else:
        sections = cls.INPUT_TYPES()
        kinds = list(cls.RETURN_TYPES)
        entry = {
            "input": sections,
            "input_order": {key: list(section) for key, section in sections.items()},
            "is_input_list": bool(getattr(cls, "INPUT_IS_LIST", False)),
            "output": kinds,
            "output_is_list": list(getattr(cls, "OUTPUT_IS_LIST", None) or [False] * len(kinds)),
            "output_name": list(getattr(cls, "RETURN_NAMES", None) or kinds),
            "name": name,
            "display_name": label or name,
            "category": cls.CATEGORY,
            "output_node": bool(getattr(cls, "OUTPUT_NODE", False)),
            "deprecated": bool(getattr(cls, "DEPRECATED", False)),
            "experimental": bool(getattr(cls, "EXPERIMENTAL", False)),
        }
    return json.loads(json.dumps(entry, default=str))


def _run(cls: Any, case: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import torch

    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    hidden = {"prompt": {"1": {"class_type": "X", "inputs": {}}}, "extra_pnginfo": {"workflow": {"n": 1}}}
    try:
        with torch.inference_mode():
            inputs = values.build(case["inputs"])
            returned = (
                asyncio.run(_called(cls, inputs, hidden)) if _is_async(cls) else _call(cls, inputs, hidden)
            )
            return {"result": _plain(_results(returned)), "ui": _plain(_ui(returned))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def _is_async(cls: Any) -> bool:
    return inspect.iscoroutinefunction(getattr(cls, cls.FUNCTION))


async def _called(cls: Any, inputs: dict[str, Any], hidden: dict[str, Any]) -> Any:
    return await _call(cls, inputs, hidden)


def _call(cls: Any, inputs: dict[str, Any], hidden: dict[str, Any]) -> Any:
    tokens = {"PROMPT": hidden["prompt"], "EXTRA_PNGINFO": hidden["extra_pnginfo"], "UNIQUE_ID": "7"}
    if _is_v3(cls):
        from comfy_api.latest import io

        given = {getattr(io.Hidden, key.lower()): value for key, value in tokens.items()}
        try:
            clone = cls.PREPARE_CLASS_CLONE({"hidden_inputs": given})
            if clone.hidden.prompt is None:  # early releases take the hidden inputs alone
                clone = cls.PREPARE_CLASS_CLONE(given)
        except KeyError:
            clone = cls.PREPARE_CLASS_CLONE(given)
        return getattr(clone, cls.FUNCTION)(**inputs)
    asked = cls.INPUT_TYPES().get("hidden", {})
    more = {name: tokens[token] for name, token in asked.items() if token in tokens}
    return getattr(cls(), cls.FUNCTION)(**inputs, **more)


def _results(returned: Any) -> Any:
    if isinstance(returned, dict):
        return returned.get("result")
    if hasattr(returned, "block_execution"):
        return returned.result
    return returned


def _ui(returned: Any) -> Any:
    ui = returned.get("ui") if isinstance(returned, dict) else getattr(returned, "ui", None)
    return ui.as_dict() if hasattr(ui, "as_dict") else ui


def _plain(value: Any) -> Any:
    """What ``torch.load`` takes with ``weights_only``; an object of another kind becomes its attributes."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        if value.numel() <= _LARGE:
            return value.detach().clone()
        every = value.detach().flatten()
        shape = [str(value.dtype), *value.shape]
        return {
            "shape": shape,
            "sum": float(every.double().sum()),
            "some": every[:: every.numel() // _LARGE].clone(),
        }
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic,)):
        return value.item()
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if hasattr(value, "generate_noise"):
        latent = {"samples": torch.zeros(2, 4, 3, 5)}
        return {"noise": value.generate_noise(latent), "seed": value.seed}
    if callable(value):  # a latent operation
        sample = torch.randn((2, 4, 40, 36), generator=torch.Generator().manual_seed(5))
        return {"operation": value(latent=sample)}
    return f"<{type(value).__name__}>"


def _collect(directories: dict[str, Path], kept: Path, number: int) -> list[str]:
    """Move what a case wrote out of the next case's way."""
    moved = []
    for kind in ("output", "temp"):
        for file in sorted(directories[kind].rglob("*")):
            if file.is_file():
                name = f"{kind}/{file.relative_to(directories[kind]).as_posix()}"
                place = kept / str(number) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                file.rename(place)
                moved.append(name)
    return moved


main()
