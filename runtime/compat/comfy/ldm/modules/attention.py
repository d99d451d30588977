"""``comfy.ldm.modules.attention``: attention over tensors is real; blocks of models are names only.

All of ComfyUI's variants compute the same thing in different ways; here each is torch's own scaled dot product.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ...._standins import names_only

__getattr__ = names_only(__name__)


def exists(val: Any) -> bool:
    return val is not None


def default(val: Any, d: Any) -> Any:
    return d if val is None else val


def wrap_attn(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: where a model's options name another attention, that one is called, and given this one."""

    @functools.wraps(func)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        other = (kwargs.get("transformer_options") or {}).get("optimized_attention_override")
        if other is None or kwargs.get("_inside_attn_wrapper"):
            return func(*args, **kwargs)
        return other(func, *args, **{**kwargs, "_inside_attn_wrapper": True})

    return chosen


def attention_pytorch(
    q: Any,
    k: Any,
    v: Any,
    heads: int,
    mask: Any = None,
    attn_precision: Any = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **kwargs: Any,
) -> Any:
    """Attention of ``heads`` heads.

    q, k and v are [batch, tokens, heads * size], or [batch, heads, tokens, size] with ``skip_reshape``; the result is
    in the first form, or in the second with ``skip_output_reshape``. A boolean mask keeps what is true; any other is
    added.
    """
    from torch.nn.functional import scaled_dot_product_attention

    del attn_precision, kwargs
    if not skip_reshape:
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    if mask is not None and mask.ndim in (2, 3):  # one for all, or one for each item: the same for every head
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    attended = scaled_dot_product_attention(q, k, v, mask)
    return attended if skip_output_reshape else attended.transpose(1, 2).flatten(2)


attention_basic = attention_pytorch
attention_split = attention_pytorch
attention_sub_quad = attention_pytorch
optimized_attention = attention_pytorch
optimized_attention_masked = attention_pytorch


def optimized_attention_for_device(
    device: Any, mask: bool = False, small_input: bool = False
) -> Callable[..., Any]:
    """The attention function for a device: the same for all."""
    del device, mask, small_input
    return optimized_attention
