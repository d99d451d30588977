"""``comfy.utils``: progress bars, image scaling, tiling, weight files, small helpers.

All real, except most functions that rename the keys of particular models' weights (``MODEL_NAMES``), which are names
only. Weight files are read as data: safetensors, or pickles restricted to tensors; nothing else is unpickled.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from ...sdk import progress
from .. import _previews
from .._standins import names_only
from ._scaling import bislerp, common_upscale, lanczos
from ._tiling import get_tiled_scale_steps, tiled_scale, tiled_scale_multidim
from ._unet_keys import (
    TRANSFORMER_BLOCKS,
    UNET_MAP_ATTENTIONS,
    UNET_MAP_BASIC,
    UNET_MAP_RESNET,
    unet_to_diffusers,
)

__all__ = [
    "PROGRESS_BAR_ENABLED",
    "PROGRESS_BAR_HOOK",
    "TRANSFORMER_BLOCKS",
    "UNET_MAP_ATTENTIONS",
    "UNET_MAP_BASIC",
    "UNET_MAP_RESNET",
    "ProgressBar",
    "bislerp",
    "calculate_parameters",
    "common_upscale",
    "convert_sd_to",
    "copy_to_param",
    "deepcopy_list_dict",
    "get_attr",
    "get_tiled_scale_steps",
    "lanczos",
    "load_torch_file",
    "pack_latents",
    "repeat_to_batch_size",
    "reshape_mask",
    "resize_list_to_batch_size",
    "resize_to_batch_size",
    "safetensors_header",
    "save_torch_file",
    "set_attr",
    "set_attr_buffer",
    "set_attr_param",
    "set_progress_bar_enabled",
    "set_progress_bar_global_hook",
    "state_dict_key_replace",
    "state_dict_prefix_replace",
    "string_to_seed",
    "tiled_scale",
    "tiled_scale_multidim",
    "unet_to_diffusers",
    "unpack_latents",
    "weight_dtype",
]

MODEL_NAMES = [
    "model_trange",
    "MMDIT_MAP_BASIC",
    "MMDIT_MAP_BLOCK",
    "PIXART_MAP_BASIC",
    "PIXART_MAP_BLOCK",
    "auraflow_to_diffusers",
    "clip_text_transformers_convert",
    "convert_old_quants",
    "detect_layer_quantization",
    "flux_to_diffusers",
    "load_safetensors",
    "mmdit_to_diffusers",
    "pixart_to_diffusers",
    "swap_scale_shift",
    "transformers_convert",
    "upscale_dit_mask",
    "z_image_to_diffusers",
]
__getattr__ = names_only(__name__, MODEL_NAMES)

DISABLE_MMAP = False
MMAP_TORCH_FILES = False
ALWAYS_SAFE_LOAD = True


# -- progress ------------------------------------------------------------------------------------------------------
PROGRESS_BAR_ENABLED = True


def _report(
    value: float, total: float, preview: Any = None, prompt_id: Any = None, node_id: Any = None
) -> None:
    """The hook until a pack sets its own. Stops the node here if the user has asked for that."""
    del prompt_id  # the host knows which prompt a call belongs to
    progress.check_interrupted()
    progress.report(value, total, node_id=node_id, preview=_previews.from_tuple(preview), legacy=True)


PROGRESS_BAR_HOOK: Callable[..., Any] | None = _report


def set_progress_bar_enabled(enabled: bool) -> None:
    global PROGRESS_BAR_ENABLED
    PROGRESS_BAR_ENABLED = enabled


def set_progress_bar_global_hook(function: Callable[..., Any] | None) -> None:
    """Replace what progress bars call: ``hook(value, total, preview, prompt_id=None, node_id=None)``."""
    global PROGRESS_BAR_HOOK
    PROGRESS_BAR_HOOK = function


class ProgressBar:
    """Progress of the running node, shown to the user who started it."""

    def __init__(self, total: float, node_id: str | None = None) -> None:
        self.total = total
        self.current: float = 0
        self.hook = PROGRESS_BAR_HOOK
        self.node_id = node_id

    def update_absolute(self, value: float, total: float | None = None, preview: Any = None) -> None:
        """Set the value (at most the total). ``preview`` is ``("JPEG" | "PNG", PIL image, max size or None)``.

        Raises:
            InterruptProcessingException: the user has stopped this node.
        """
        if total is not None:
            self.total = total
        self.current = min(value, self.total)
        if self.hook is None:
            return
        if self.node_id is None:
            self.hook(self.current, self.total, preview)
        else:
            self.hook(self.current, self.total, preview, node_id=self.node_id)

    def update(self, value: float) -> None:
        self.update_absolute(self.current + value)


# -- weight files --------------------------------------------------------------------------------------------------
def load_torch_file(
    ckpt: Any, safe_load: bool = False, device: Any = None, return_metadata: bool = False
) -> Any:
    """Read a file of tensors: safetensors by its suffix, else a pickle that may hold nothing but tensors.

    Raises:
        ValueError: the file is not what its suffix says, or a pickle that needs code to load.
    """
    import torch

    del safe_load  # there is no other way here
    where = torch.device("cpu") if device is None else torch.device(device)
    name = str(ckpt)
    metadata = None
    if name.lower().endswith((".safetensors", ".sft")):
        import safetensors

        try:
            with safetensors.safe_open(name, framework="pt", device=str(where)) as file:
                weights: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                if return_metadata:
                    metadata = file.metadata()
        except safetensors.SafetensorError as error:
            raise ValueError(f"{name} is not a whole safetensors file: {error}") from error
    else:
        content = torch.load(name, map_location=where, weights_only=True)
        weights = content
        if isinstance(content, dict):
            if "state_dict" in content:
                weights = content["state_dict"]
            elif len(content) == 1:
                (only,) = content.values()
                weights = only if isinstance(only, dict) else content
    return (weights, metadata) if return_metadata else weights


def save_torch_file(sd: dict[str, Any], ckpt: Any, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors."""
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in sd.items()}, str(ckpt), metadata=metadata)


def safetensors_header(safetensors_path: Any, max_size: int = 100 * 1024 * 1024) -> bytes | None:
    """The JSON header of a safetensors file as bytes; None when it would be longer than ``max_size``."""
    with open(safetensors_path, "rb") as file:
        head = file.read(8)
        if len(head) < 8:
            return None
        (length,) = struct.unpack("<Q", head)
        return file.read(length) if length <= max_size else None


def calculate_parameters(sd: dict[str, Any], prefix: str = "") -> int:
    return sum(value.nelement() for key, value in sd.items() if key.startswith(prefix))


def weight_dtype(sd: dict[str, Any], prefix: str = "") -> Any:
    """The dtype that most parameters have; None for no parameters."""
    counts: dict[Any, int] = {}
    for key, value in sd.items():
        if key.startswith(prefix):
            counts[value.dtype] = counts.get(value.dtype, 0) + value.numel()
    return max(counts, key=lambda dtype: counts[dtype]) if counts else None


def state_dict_key_replace(state_dict: dict[str, Any], keys_to_replace: dict[str, str]) -> dict[str, Any]:
    """Rename keys in place."""
    for old, new in keys_to_replace.items():
        if old in state_dict:
            state_dict[new] = state_dict.pop(old)
    return state_dict


def state_dict_prefix_replace(
    state_dict: dict[str, Any], replace_prefix: dict[str, str], filter_keys: bool = False
) -> dict[str, Any]:
    """Rename keys by prefix, in place; with ``filter_keys`` into a new dict that holds only those."""
    result = {} if filter_keys else state_dict
    for old, new in replace_prefix.items():
        for key in [key for key in state_dict if key.startswith(old)]:
            result[new + key[len(old) :]] = state_dict.pop(key)
    return result


def convert_sd_to(state_dict: dict[str, Any], dtype: Any) -> dict[str, Any]:
    for key, value in state_dict.items():
        state_dict[key] = value.to(dtype)
    return state_dict


# -- attributes by dotted name -------------------------------------------------------------------------------------
def get_attr(obj: Any, attr: str) -> Any:
    for name in attr.split("."):
        obj = getattr(obj, name)
    return obj


def set_attr(obj: Any, attr: str, value: Any) -> Any:
    """Set it and return what was there."""
    path, _, last = attr.rpartition(".")
    owner = get_attr(obj, path) if path else obj
    before = getattr(owner, last)
    setattr(owner, last, value)
    return before


def set_attr_param(obj: Any, attr: str, value: Any) -> Any:
    import torch

    if not isinstance(value, torch.nn.Parameter):
        value = torch.nn.Parameter(value, requires_grad=False)
    return set_attr(obj, attr, value)


def set_attr_buffer(obj: Any, attr: str, value: Any) -> Any:
    *path, last = attr.split(".")
    for name in path:
        obj = getattr(obj, name)
    before = getattr(obj, last, None)
    obj.register_buffer(
        last, value, persistent=last not in getattr(obj, "_non_persistent_buffers_set", set())
    )
    return before


def copy_to_param(obj: Any, attr: str, value: Any) -> None:
    """Copy a tensor into a parameter's own memory."""
    get_attr(obj, attr).data.copy_(value)


# -- batches, masks, latents ---------------------------------------------------------------------------------------
def repeat_to_batch_size(tensor: Any, batch_size: int, dim: int = 0) -> Any:
    """Cut a batch off at, or repeat it up to, ``batch_size``."""
    have = tensor.shape[dim]
    if have > batch_size:
        return tensor.narrow(dim, 0, batch_size)
    if have < batch_size:
        repeats = [1] * tensor.ndim
        repeats[dim] = math.ceil(batch_size / have)
        return tensor.repeat(repeats).narrow(dim, 0, batch_size)
    return tensor


def resize_to_batch_size(tensor: Any, batch_size: int) -> Any:
    """Stretch or thin out a batch evenly to ``batch_size`` items."""
    import torch

    if len(tensor) == batch_size:
        return tensor
    rows = torch.tensor(_picks(len(tensor), batch_size), dtype=torch.long, device=tensor.device)
    return tensor.index_select(0, rows)


def resize_list_to_batch_size(l: list[Any], batch_size: int) -> list[Any]:  # noqa: E741 - its name in ComfyUI
    """Stretch or thin out a list evenly to ``batch_size`` items; an empty one stays empty."""
    if not l or len(l) == batch_size:
        return l
    return [l[index] for index in _picks(len(l), batch_size)]


def _picks(have: int, wanted: int) -> list[int]:
    """Which of ``have`` items stand for each of ``wanted``."""
    if wanted <= 1:
        return list(range(have))[:wanted]
    if wanted > have:  # the item under the middle of each place
        return [min(math.floor((place + 0.5) * have / wanted), have - 1) for place in range(wanted)]
    return [round(place * (have - 1) / (wanted - 1)) for place in range(wanted)]  # both ends are among them


def reshape_mask(input_mask: Any, output_shape: Iterable[int]) -> Any:
    """Scale a mask to the spatial size, and repeat it to the channels and batch, of a latent's shape."""
    import torch

    batch, channels, *space = output_shape
    if len(space) < 3:
        cells = input_mask.reshape(-1, 1, *input_mask.shape[-len(space) :])
    else:
        cells = input_mask if input_mask.ndim > 4 else input_mask.reshape(1, 1, -1, *input_mask.shape[-2:])
    mode = {1: "linear", 2: "bilinear"}.get(len(space), "trilinear")
    scaled = torch.nn.functional.interpolate(cells, size=space, mode=mode)
    if scaled.shape[1] < channels:
        scaled = repeat_to_batch_size(scaled, channels, dim=1)
    return repeat_to_batch_size(scaled, batch)


def pack_latents(latents: list[Any]) -> tuple[Any, list[Any]]:
    """Put several latents of one batch into one flat tensor; the shapes say how to get them back."""
    import torch

    shapes = [latent.shape for latent in latents]
    flat = [latent.reshape(latent.shape[0], 1, -1) for latent in latents]
    return torch.cat(flat, dim=-1), shapes


def unpack_latents(combined_latent: Any, latent_shapes: list[Any]) -> list[Any]:
    """Undo ``pack_latents`` (one shape only: the latent itself)."""
    if len(latent_shapes) <= 1:
        return [combined_latent]
    result, start = [], 0
    for shape in latent_shapes:
        length = math.prod(shape[1:])
        piece = combined_latent[..., start : start + length]
        result.append(piece.reshape([combined_latent.shape[0], *shape[1:]]))
        start += length
    return result


# -- odds and ends -------------------------------------------------------------------------------------------------
def string_to_seed(data: str | bytes) -> int:
    """A number from a text, always the same one."""
    if isinstance(data, str):
        data = data.encode("latin-1") if all(ord(char) < 256 for char in data) else data.encode()
    return zlib.crc32(data)


def deepcopy_list_dict(obj: Any, memo: dict[int, Any] | None = None) -> Any:
    """Copy lists and dicts all the way down; everything else in them stays the same object."""
    memo = {} if memo is None else memo
    if id(obj) in memo:
        return memo[id(obj)]
    if isinstance(obj, dict):
        made: Any = {}
        memo[id(obj)] = made
        made.update({key: deepcopy_list_dict(value, memo) for key, value in obj.items()})
        return made
    if isinstance(obj, list):
        made = []
        memo[id(obj)] = made
        made += [deepcopy_list_dict(value, memo) for value in obj]
        return made
    return obj
