"""The nodes of ``nodes`` that need a model: declared in full, so that packs can subclass and show them; not runnable.

Running one raises ``NotProvidedError`` with its name. They are not registered as nodes of the core extension.
"""

from __future__ import annotations

from typing import Any

from .. import folder_paths
from .._standins import refuse
from ..comfy.samplers import KSampler as _Lists
from .limits import pixels

_SEED = ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True})
_STEPS = ("INT", {"default": 20, "min": 1, "max": 10000})
_CFG = ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01})
_TILE = ("INT", {"default": 512, "min": 64, "max": 4096, "step": 64})
_OVERLAP = ("INT", {"default": 64, "min": 0, "max": 4096, "step": 32})
_LORA_STRENGTH = ("FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01})
_CONTROL_STRENGTH = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01})


class _Files:
    """In a declaration: the names in a model folder, read whenever the declaration is asked for."""

    def __init__(self, folder: str) -> None:
        self.folder = folder


def _live(value: Any) -> Any:
    if isinstance(value, _Files):
        return folder_paths.get_filename_list(value.folder)
    return tuple(_live(item) for item in value) if isinstance(value, tuple) else value


def _refusing(name: str) -> Any:
    def function(self: Any, *args: Any, **kwargs: Any) -> Any:
        del self, args, kwargs
        refuse(f"nodes.{name}")

    return function


def _model_node(
    name: str,
    function: str,
    returns: tuple[str, ...],
    category: str,
    required: dict[str, Any],
    optional: dict[str, Any] | None = None,
    **more: Any,
) -> type:
    def input_types(cls: type) -> dict[str, Any]:
        del cls
        declared = {"required": {key: _live(value) for key, value in required.items()}}
        if optional:
            declared["optional"] = {key: _live(value) for key, value in optional.items()}
        return declared

    return type(
        name,
        (),
        {
            "INPUT_TYPES": classmethod(input_types),
            "RETURN_TYPES": returns,
            "FUNCTION": function,
            "CATEGORY": category,
            function: _refusing(name),
            "__module__": __name__,
            "__doc__": f"{name}, by name only: it needs a model runtime.",
            **more,
        },
    )


_SAMPLING = {
    "seed": _SEED,
    "steps": _STEPS,
    "cfg": _CFG,
    "sampler_name": (_Lists.SAMPLERS,),
    "scheduler": (_Lists.SCHEDULERS,),
    "positive": ("CONDITIONING",),
    "negative": ("CONDITIONING",),
    "latent_image": ("LATENT",),
}
_RANGE = {
    "start_percent": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.001}),
    "end_percent": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.001}),
}
_TEXT = ("STRING", {"multiline": True, "dynamicPrompts": True})
_TILING = {
    "tile_size": _TILE,
    "overlap": _OVERLAP,
    "temporal_size": ("INT", {"default": 64, "min": 8, "max": 4096, "step": 4}),
    "temporal_overlap": ("INT", {"default": 8, "min": 4, "max": 4096, "step": 4}),
}
_LATENT_OUT = ("LATENT",)
_CONDITIONING_OUT = ("CONDITIONING",)
_CHECKPOINT_OUT = ("MODEL", "CLIP", "VAE")

_MADE = [
    _model_node("CLIPTextEncode", "encode", _CONDITIONING_OUT, "conditioning", {"text": _TEXT, "clip": ("CLIP",)}),
    _model_node(
        "CLIPSetLastLayer", "set_last_layer", ("CLIP",), "conditioning",
        {"clip": ("CLIP",), "stop_at_clip_layer": ("INT", {"default": -1, "min": -24, "max": -1, "step": 1})},
    ),
    _model_node("VAEDecode", "decode", ("IMAGE",), "latent", {"samples": ("LATENT",), "vae": ("VAE",)}),
    _model_node(
        "VAEDecodeTiled", "decode", ("IMAGE",), "_for_testing",
        {"samples": ("LATENT",), "vae": ("VAE",), **_TILING},
    ),
    _model_node("VAEEncode", "encode", _LATENT_OUT, "latent", {"pixels": ("IMAGE",), "vae": ("VAE",)}),
    _model_node(
        "VAEEncodeTiled", "encode", _LATENT_OUT, "_for_testing",
        {"pixels": ("IMAGE",), "vae": ("VAE",), **_TILING},
    ),
    _model_node(
        "VAEEncodeForInpaint", "encode", _LATENT_OUT, "latent/inpaint",
        {"pixels": ("IMAGE",), "vae": ("VAE",), "mask": ("MASK",),
         "grow_mask_by": ("INT", {"default": 6, "min": 0, "max": 64, "step": 1})},
    ),
    _model_node(
        "InpaintModelConditioning", "encode", ("CONDITIONING", "CONDITIONING", "LATENT"), "conditioning/inpaint",
        {"positive": ("CONDITIONING",), "negative": ("CONDITIONING",), "vae": ("VAE",), "pixels": ("IMAGE",),
         "mask": ("MASK",), "noise_mask": ("BOOLEAN", {"default": True})},
        RETURN_NAMES=("positive", "negative", "latent"),
    ),
    _model_node(
        "CheckpointLoader", "load_checkpoint", _CHECKPOINT_OUT, "advanced/loaders",
        {"config_name": (_Files("configs"),), "ckpt_name": (_Files("checkpoints"),)}, DEPRECATED=True,
    ),
    _model_node(
        "CheckpointLoaderSimple", "load_checkpoint", _CHECKPOINT_OUT, "loaders",
        {"ckpt_name": (_Files("checkpoints"), {"tooltip": "Which checkpoint file to load."})},
    ),
    _model_node(
        "DiffusersLoader", "load_checkpoint", _CHECKPOINT_OUT, "advanced/loaders/deprecated",
        {"model_path": (_Files("diffusers"),)},
    ),
    _model_node(
        "unCLIPCheckpointLoader", "load_checkpoint", (*_CHECKPOINT_OUT, "CLIP_VISION"), "loaders",
        {"ckpt_name": (_Files("checkpoints"),)},
    ),
    _model_node(
        "LoraLoader", "load_lora", ("MODEL", "CLIP"), "loaders",
        {"model": ("MODEL",), "clip": ("CLIP",), "lora_name": (_Files("loras"),),
         "strength_model": _LORA_STRENGTH, "strength_clip": _LORA_STRENGTH},
    ),
    _model_node(
        "LoraLoaderModelOnly", "load_lora_model_only", ("MODEL",), "loaders",
        {"model": ("MODEL",), "lora_name": (_Files("loras"),), "strength_model": _LORA_STRENGTH},
    ),
    _model_node("VAELoader", "load_vae", ("VAE",), "loaders", {"vae_name": (_Files("vae"),)}),
    _model_node(
        "ControlNetLoader", "load_controlnet", ("CONTROL_NET",), "loaders",
        {"control_net_name": (_Files("controlnet"),)},
    ),
    _model_node(
        "DiffControlNetLoader", "load_controlnet", ("CONTROL_NET",), "loaders",
        {"model": ("MODEL",), "control_net_name": (_Files("controlnet"),)},
    ),
    _model_node(
        "ControlNetApply", "apply_controlnet", _CONDITIONING_OUT, "conditioning/controlnet",
        {"conditioning": ("CONDITIONING",), "control_net": ("CONTROL_NET",), "image": ("IMAGE",),
         "strength": _CONTROL_STRENGTH}, DEPRECATED=True,
    ),
    _model_node(
        "ControlNetApplyAdvanced", "apply_controlnet", ("CONDITIONING", "CONDITIONING"), "conditioning/controlnet",
        {"positive": ("CONDITIONING",), "negative": ("CONDITIONING",), "control_net": ("CONTROL_NET",),
         "image": ("IMAGE",), "strength": _CONTROL_STRENGTH, **_RANGE}, {"vae": ("VAE",)},
        RETURN_NAMES=("positive", "negative"),
    ),
    _model_node(
        "UNETLoader", "load_unet", ("MODEL",), "advanced/loaders",
        {"unet_name": (_Files("diffusion_models"),),
         "weight_dtype": (["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"],)},
    ),
    _model_node(
        "CLIPLoader", "load_clip", ("CLIP",), "advanced/loaders",
        {"clip_name": (_Files("text_encoders"),),
         "type": (["stable_diffusion", "stable_cascade", "sd3", "stable_audio", "mochi", "ltxv", "pixart", "cosmos",
                   "lumina2", "wan", "hidream", "chroma", "ace", "omnigen2", "qwen_image", "hunyuan_image"],)},
        {"device": (["default", "cpu"], {"advanced": True})},
    ),
    _model_node(
        "DualCLIPLoader", "load_clip", ("CLIP",), "advanced/loaders",
        {"clip_name1": (_Files("text_encoders"),), "clip_name2": (_Files("text_encoders"),),
         "type": (["sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image"],)},
        {"device": (["default", "cpu"], {"advanced": True})},
    ),
    _model_node(
        "CLIPVisionLoader", "load_clip", ("CLIP_VISION",), "loaders", {"clip_name": (_Files("clip_vision"),)}
    ),
    _model_node(
        "CLIPVisionEncode", "encode", ("CLIP_VISION_OUTPUT",), "conditioning",
        {"clip_vision": ("CLIP_VISION",), "image": ("IMAGE",), "crop": (["center", "none"],)},
    ),
    _model_node(
        "StyleModelLoader", "load_style_model", ("STYLE_MODEL",), "loaders",
        {"style_model_name": (_Files("style_models"),)},
    ),
    _model_node(
        "StyleModelApply", "apply_stylemodel", _CONDITIONING_OUT, "conditioning/style_model",
        {"conditioning": ("CONDITIONING",), "style_model": ("STYLE_MODEL",),
         "clip_vision_output": ("CLIP_VISION_OUTPUT",), "strength": _CONTROL_STRENGTH,
         "strength_type": (["multiply", "attn_bias"],)},
    ),
    _model_node(
        "unCLIPConditioning", "apply_adm", _CONDITIONING_OUT, "conditioning",
        {"conditioning": ("CONDITIONING",), "clip_vision_output": ("CLIP_VISION_OUTPUT",),
         "strength": ("FLOAT", {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.01}),
         "noise_augmentation": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01})},
    ),
    _model_node(
        "GLIGENLoader", "load_gligen", ("GLIGEN",), "loaders", {"gligen_name": (_Files("gligen"),)}
    ),
    _model_node(
        "GLIGENTextBoxApply", "append", _CONDITIONING_OUT, "conditioning/gligen",
        {"conditioning_to": ("CONDITIONING",), "clip": ("CLIP",), "gligen_textbox_model": ("GLIGEN",), "text": _TEXT,
         "width": pixels(64, 8, 8), "height": pixels(64, 8, 8), "x": pixels(step=8), "y": pixels(step=8)},
    ),
    _model_node(
        "KSampler", "sample", _LATENT_OUT, "sampling",
        {"model": ("MODEL",), **_SAMPLING,
         "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})},
    ),
    _model_node(
        "KSamplerAdvanced", "sample", _LATENT_OUT, "sampling",
        {"model": ("MODEL",), "add_noise": (["enable", "disable"],),
         "noise_seed": _SEED, **{key: value for key, value in _SAMPLING.items() if key != "seed"},
         "start_at_step": ("INT", {"default": 0, "min": 0, "max": 10000}),
         "end_at_step": ("INT", {"default": 10000, "min": 0, "max": 10000}),
         "return_with_leftover_noise": (["disable", "enable"],)},
    ),
]  # fmt: skip

MODEL_CLASSES: dict[str, type] = {made.__name__: made for made in _MADE}

#: Helper functions of ``nodes`` that run a model.
MODEL_FUNCTIONS = ("common_ksampler", "vae_encode_crop_pixels")
