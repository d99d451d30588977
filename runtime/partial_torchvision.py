"""Lets torchvision be imported where its compiled operators cannot be loaded: they were built for another torch.

The ordinary wheel of torchvision is linked against CUDA; beside a CPU build of torch its libraries do not load and its
import fails, although transforms, models and utilities are plain Python. Where that is so, the operators are declared
here as soon as torchvision has noticed: ``nms`` is computed in torch, every other one raises an error that says where
it can be had. A torchvision whose libraries load is left as it is.
"""

# ruff: noqa: SLF001 - torchvision has no public seam for this

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .partial_torchaudio import load_what_loads

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # they bring temporary files, archivers and OpenSSL along, and nothing that is needed here
    Loader = MetaPathFinder = object

_QUANTISED = (
    "Tensor input, Tensor rois, float input_scale, int input_zero_point, float rois_scale, int rois_zero_point, "
    "float spatial_scale, int pooled_height, int pooled_width"
)
_POOL = "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_UNPOOL = "Tensor grad, Tensor rois, {extra}float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_MAPPING = "Tensor channel_mapping, "
_SIZE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_CONV = (
    "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, "
    "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, "
    "bool use_mask"
)
#: What torchvision's own Python code calls, as its libraries declare it.
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_POOL}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward({_UNPOOL.format(extra='')}, {_SIZE}, int sampling_ratio, bool aligned) -> Tensor",
    f"qroi_align({_QUANTISED}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool({_POOL}) -> (Tensor, Tensor)",
    f"_roi_pool_backward({_UNPOOL.format(extra='Tensor argmax, ')}, {_SIZE}) -> Tensor",
    f"ps_roi_align({_POOL}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward({_UNPOOL.format(extra=_MAPPING)}, int sampling_ratio, {_SIZE}) -> Tensor",
    f"ps_roi_pool({_POOL}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward({_UNPOOL.format(extra=_MAPPING)}, {_SIZE}) -> Tensor",
    f"deform_conv2d({_CONV}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_CONV}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    "_cuda_version() -> int",
)
_ELSEWHERE = "image variant 'full' (or 'cuda') has them: RINGFENCE_VARIANT=full make up"


class OperatorAbsentError(RuntimeError):
    """A part of torchvision that is compiled and cannot be loaded here."""

    __module__ = "ringfence"  # as shown to users


class PartialFinder(MetaPathFinder):
    """Runs ``then[name]`` on a module right after it was executed."""

    def __init__(self, then: dict[str, Callable[[ModuleType], None]]) -> None:
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for the modules of the table only."""
        then = self._then.get(fullname)
        spec = PathFinder.find_spec(fullname, path, target) if then else None
        if spec is None or spec.loader is None or then is None:
            return None
        spec.loader = _Then(spec.loader, then)
        return spec


class _Then(Loader):
    def __init__(self, loader: Loader, then: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._then(module)

    def __getattr__(self, name: str) -> Any:  # get_source, get_data, ...: tracebacks and inspect ask for them
        return getattr(self._loader, name)


def install() -> None:
    """Watch for torchvision and torchaudio; nothing is imported, and a second call changes nothing."""
    if not any(isinstance(finder, PartialFinder) for finder in sys.meta_path):
        then = {
            "torchvision.extension": complete,
            "torchvision.io.image": refuse_codecs,
            "torchaudio._extension.utils": load_what_loads,
        }
        sys.meta_path.insert(0, PartialFinder(then))


def complete(extension: Any) -> None:
    """``torchvision.extension`` has just found out whether the libraries load; if not, declare what they would have."""
    if extension._has_ops():
        return
    import torch

    # Kept for good: with the object the declarations would go.
    make: Any = torch.library.Library
    library = extension._ringfence_operators = make("torchvision", "FRAGMENT")
    for schema in _OPERATORS:
        name = schema.partition("(")[0]
        library.define(schema)
        if name != "_cuda_version":
            library.impl(name, nms if name == "nms" else _refusal(f"torchvision.ops.{name}"), "CPU")
    library.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")
    # Its functions ask this before they call an operator: let the operator answer, which knows its own name.
    extension._has_ops = lambda: True


def refuse_codecs(image: Any) -> None:
    """``torchvision.io.image`` decodes and encodes with a library of its own."""
    if image._has_image_ops():
        return

    def refuse() -> None:
        raise OperatorAbsentError(
            f"torchvision.io.{sys._getframe(1).f_code.co_name}: its picture codecs are compiled code that "
            f"{_here()} does not have; read and write pictures with PIL, or: {_ELSEWHERE}"
        )

    image._assert_has_image_ops = refuse


def nms(dets: Any, scores: Any, iou_threshold: float) -> Any:
    """Indices of the boxes that stay, best first: each drops the worse ones that overlap it too much."""
    import torch

    if dets.dim() != 2 or dets.size(1) != 4:
        raise RuntimeError(f"boxes should be a tensor of shape [N, 4], got {list(dets.shape)}")
    if scores.dim() != 1 or scores.size(0) != dets.size(0):
        raise RuntimeError(f"scores should be one for each of {dets.size(0)} boxes, got {list(scores.shape)}")
    order = scores.argsort(stable=True, descending=True)
    x1, y1, x2, y2 = dets[order].unbind(1)
    areas = (x2 - x1) * (y2 - y1)
    stays = torch.ones_like(order, dtype=torch.bool)
    for best in range(order.numel()):
        if not stays[best]:
            continue
        rest = slice(best + 1, None)
        width = (torch.minimum(x2[best], x2[rest]) - torch.maximum(x1[best], x1[rest])).clamp(min=0)
        height = (torch.minimum(y2[best], y2[rest]) - torch.maximum(y1[best], y1[rest])).clamp(min=0)
        shared = width * height
        stays[rest] &= ~(shared / (areas[best] + areas[rest] - shared) > iou_threshold)
    return order[stays]


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OperatorAbsentError(
            f"{name} needs torchvision's compiled operators, which {_here()} does not have; {_ELSEWHERE}"
        )

    return refuse


def _here() -> str:
    try:
        facts = json.loads(Path(sys.prefix, "ringfence-image.json").read_text(encoding="utf-8"))
        return f"image variant '{facts['variant']}'"
    except (OSError, ValueError, KeyError, TypeError):
        return "this torchvision"
