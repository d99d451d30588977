"""``comfy.ops``: torch's layers that skip the initialisation of weights and can cast them to their input.

Real, because packs build small networks of their own out of them and load weights from a file. What belongs to models
of ComfyUI's (fp8 and quantised layers, offloading) is names only. torch is imported when the first name is used.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from .._standins import names_only

_refused = names_only(__name__)


def cast_to(
    weight: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False, copy: bool = False
) -> Any:
    """A tensor in another dtype and on another device; the same tensor where nothing changes, unless ``copy``."""
    return weight.to(device=device, dtype=dtype, non_blocking=non_blocking, copy=copy)


def cast_to_input(weight: Any, input: Any, non_blocking: bool = False, copy: bool = True) -> Any:
    """A tensor in the dtype and on the device of ``input``."""
    return cast_to(weight, input.dtype, input.device, non_blocking, copy)


def cast_bias_weight(
    s: Any, input: Any = None, dtype: Any = None, device: Any = None, bias_dtype: Any = None
) -> tuple[Any, Any]:
    """A layer's weight and bias as ``input`` needs them, after the functions that were hung on the layer."""
    if input is not None:
        dtype = dtype if dtype is not None else input.dtype
        device = device if device is not None else input.device
    bias = getattr(s, "bias", None)
    if bias is not None:
        bias = cast_to(bias, bias_dtype if bias_dtype is not None else dtype, device)
        for change in s.bias_function:
            bias = change(bias)
    weight = getattr(s, "weight", None)
    if weight is not None:
        weight = cast_to(weight, dtype, device)
        for change in s.weight_function:
            weight = change(weight)
    return weight, bias


@functools.cache
def _made() -> dict[str, Any]:
    """The classes, once torch is wanted."""
    import torch
    from torch import nn
    from torch.nn import functional

    class CastWeightBiasOp:
        """What every layer here has: whether it casts, and functions that change weight and bias before use."""

        comfy_cast_weights = False
        weight_function: Any = ()
        bias_function: Any = ()

    class _Layer(CastWeightBiasOp):
        def reset_parameters(self) -> None:
            """Nothing: the weights come from a file."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            as_stored = not (self.comfy_cast_weights or self.weight_function or self.bias_function)
            run = super().forward if as_stored else self.forward_comfy_cast_weights  # type: ignore[misc]
            return run(*args, **kwargs)

        def forward_comfy_cast_weights(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    class Linear(_Layer, nn.Linear):
        def forward_comfy_cast_weights(self, input: Any) -> Any:
            return functional.linear(input, *cast_bias_weight(self, input))

    class _Convolution(_Layer):
        def forward_comfy_cast_weights(self, input: Any) -> Any:
            weight, bias = cast_bias_weight(self, input)
            return self._conv_forward(input, weight, bias)  # type: ignore[attr-defined]

    class Conv1d(_Convolution, nn.Conv1d): ...

    class Conv2d(_Convolution, nn.Conv2d): ...

    class Conv3d(_Convolution, nn.Conv3d): ...

    class GroupNorm(_Layer, nn.GroupNorm):
        def forward_comfy_cast_weights(self, input: Any) -> Any:
            return functional.group_norm(input, self.num_groups, *cast_bias_weight(self, input), self.eps)

    class LayerNorm(_Layer, nn.LayerNorm):
        def forward_comfy_cast_weights(self, input: Any) -> Any:
            return functional.layer_norm(
                input, self.normalized_shape, *cast_bias_weight(self, input), self.eps
            )

    class RMSNorm(_Layer, nn.RMSNorm):
        bias = None

        def forward_comfy_cast_weights(self, input: Any) -> Any:
            weight, _ = cast_bias_weight(self, input)
            return functional.rms_norm(input, self.normalized_shape, weight, self.eps)

    class _Transposed(_Layer):
        dimensions = 0

        def forward_comfy_cast_weights(self, input: Any, output_size: Any = None) -> Any:
            layer: Any = self
            padding = layer._output_padding(
                input,
                output_size,
                layer.stride,
                layer.padding,
                layer.kernel_size,
                self.dimensions,
                layer.dilation,
            )
            function = getattr(functional, f"conv_transpose{self.dimensions}d")
            weight, bias = cast_bias_weight(self, input)
            return function(
                input, weight, bias, layer.stride, layer.padding, padding, layer.groups, layer.dilation
            )

    class ConvTranspose1d(_Transposed, nn.ConvTranspose1d):
        dimensions = 1

    class ConvTranspose2d(_Transposed, nn.ConvTranspose2d):
        dimensions = 2

    class Embedding(_Layer, nn.Embedding):
        bias = None

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if not (self.comfy_cast_weights or self.weight_function):
                kwargs.pop("out_dtype", None)
            return super().forward(*args, **kwargs)

        def forward_comfy_cast_weights(self, input: Any, out_dtype: Any = None) -> Any:
            half = self.weight.dtype in (torch.float16, torch.bfloat16)
            weight, _ = cast_bias_weight(
                self, device=input.device, dtype=self.weight.dtype if half else out_dtype
            )
            found = functional.embedding(
                input,
                weight,
                self.padding_idx,
                self.max_norm,
                self.norm_type,
                self.scale_grad_by_freq,
                self.sparse,
            )
            return found if out_dtype is None else found.to(dtype=out_dtype)

    layers = {
        made.__name__: made
        for made in (
            Linear, Conv1d, Conv2d, Conv3d, GroupNorm, LayerNorm, RMSNorm, ConvTranspose1d, ConvTranspose2d, Embedding,
        )
    }  # fmt: skip

    def conv_nd(cls: Any, dims: int, *args: Any, **kwargs: Any) -> Any:
        """The convolution for 2 or 3 dimensions."""
        if dims not in (2, 3):
            raise ValueError(f"unsupported dimensions: {dims}")
        return getattr(cls, f"Conv{dims}d")(*args, **kwargs)

    def namespace(name: str, base: tuple[type, ...], members: Mapping[str, type]) -> type:
        for member in members.values():
            member.__qualname__ = f"{name}.{member.__name__}"
            member.__module__ = "comfy.ops"
        return type(name, base, {**members, "conv_nd": classmethod(conv_nd), "__module__": "comfy.ops"})

    plain = namespace("disable_weight_init", (), layers)
    casting = {name: type(name, (layer,), {"comfy_cast_weights": True}) for name, layer in layers.items()}
    return {
        "CastWeightBiasOp": CastWeightBiasOp,
        "disable_weight_init": plain,
        "manual_cast": namespace("manual_cast", (plain,), casting),
    }


def pick_operations(weight_dtype: Any, compute_dtype: Any, *args: Any, **kwargs: Any) -> Any:
    """The layers for weights of one dtype computed in another: those that cast, unless both are the same."""
    del args, kwargs
    same = compute_dtype is None or weight_dtype == compute_dtype
    return _made()["disable_weight_init" if same else "manual_cast"]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'comfy.ops' has no attribute {name!r} in Ringfence")
    made = _made()
    if name not in made:
        return _refused(name)
    globals()[name] = made[name]
    return made[name]
