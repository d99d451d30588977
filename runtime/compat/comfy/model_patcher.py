"""``comfy.model_patcher``: models with changes on top. Names only, but for the helpers that only handle options."""

from __future__ import annotations

from typing import Any

from .._standins import names_only


def create_model_options_clone(orig_model_options: dict[str, Any]) -> dict[str, Any]:
    """A copy of a model's options that can be changed without touching the original."""
    from .utils import deepcopy_list_dict

    copied: dict[str, Any] = deepcopy_list_dict(orig_model_options)
    return copied


def set_model_options_patch_replace(
    model_options: dict[str, Any],
    patch: Any,
    name: str,
    block_name: str,
    number: int,
    transformer_index: int | None = None,
) -> dict[str, Any]:
    """Enter a replacement for one block of a model into its options."""
    transformer = dict(model_options.get("transformer_options", {}))
    replaced = {key: dict(value) for key, value in transformer.get("patches_replace", {}).items()}
    block = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
    replaced.setdefault(name, {})[block] = patch
    transformer["patches_replace"] = replaced
    model_options["transformer_options"] = transformer
    return model_options


def set_model_options_post_cfg_function(
    model_options: dict[str, Any], post_cfg_function: Any, disable_cfg1_optimization: bool = False
) -> dict[str, Any]:
    model_options["sampler_post_cfg_function"] = [
        *model_options.get("sampler_post_cfg_function", []),
        post_cfg_function,
    ]
    if disable_cfg1_optimization:
        model_options["disable_cfg1_optimization"] = True
    return model_options


__getattr__ = names_only(__name__)
