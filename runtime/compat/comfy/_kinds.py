"""Kinds and names of hooks of ComfyUI's model modules: plain values, which packs read when they declare their inputs.

``_standins.names_only`` looks here for the attributes of ``HOME``'s modules.
"""

from __future__ import annotations

from enum import Enum

CLIPType = Enum(
    "CLIPType",
    "STABLE_DIFFUSION STABLE_CASCADE SD3 STABLE_AUDIO HUNYUAN_DIT FLUX MOCHI LTXV HUNYUAN_VIDEO PIXART COSMOS LUMINA2 "
    "WAN HIDREAM CHROMA ACE OMNIGEN2 QWEN_IMAGE HUNYUAN_IMAGE HUNYUAN_VIDEO_15 OVIS KANDINSKY5 KANDINSKY5_IMAGE NEWBIE "
    "FLUX2 LONGCAT_IMAGE COGVIDEOX LENS PIXELDIT IDEOGRAM4 BOOGU KREA2 JOYIMAGE MAGE MINIMAX",
)
ModelType = Enum(
    "ModelType",
    "EPS V_PREDICTION V_PREDICTION_EDM STABLE_CASCADE EDM FLOW V_PREDICTION_CONTINUOUS FLUX IMG_TO_IMG FLOW_COSMOS "
    "IMG_TO_IMG_FLOW V_PREDICTION_DDPM FLOW_AV",
)
StrengthType = Enum("StrengthType", "CONSTANT LINEAR_UP")


class EnumHookMode(Enum):
    """Whether hooked weights are kept."""

    MinVram = "minvram"
    MaxSpeed = "maxspeed"


class EnumHookType(Enum):
    """What a hook changes."""

    Weight = "weight"
    ObjectPatch = "object_patch"
    AdditionalModels = "add_models"
    TransformerOptions = "transformer_options"
    Injections = "add_injections"


class EnumWeightTarget(Enum):
    """Whose weights."""

    Model = "model"
    Clip = "clip"


class EnumHookScope(Enum):
    """Where a hook holds."""

    AllConditioning = "all_conditioning"
    HookedOnly = "hooked_only"


class InterpolationMethod:
    """How a hook's strength goes from one keyframe to the next."""

    LINEAR = "linear"
    EASE_IN = "ease_in"
    EASE_OUT = "ease_out"
    EASE_IN_OUT = "ease_in_out"
    _LIST = (LINEAR, EASE_IN, EASE_OUT, EASE_IN_OUT)


class CallbacksMP:
    """When a patched model calls back."""

    ON_CLONE = "on_clone"
    ON_DEEPCLONE_MULTIGPU = "on_deepclone_multigpu"
    ON_MATCH_MULTIGPU_CLONES = "on_match_multigpu_clones"
    ON_LOAD = "on_load_after"
    ON_DETACH = "on_detach_after"
    ON_CLEANUP = "on_cleanup"
    ON_PRE_RUN = "on_pre_run"
    ON_PREPARE_STATE = "on_prepare_state"
    ON_APPLY_HOOKS = "on_apply_hooks"
    ON_REGISTER_ALL_HOOK_PATCHES = "on_register_all_hook_patches"
    ON_INJECT_MODEL = "on_inject_model"
    ON_EJECT_MODEL = "on_eject_model"


class WrappersMP:
    """What of sampling can be wrapped."""

    OUTER_SAMPLE = "outer_sample"
    PREPARE_SAMPLING = "prepare_sampling"
    SAMPLER_SAMPLE = "sampler_sample"
    PREDICT_NOISE = "predict_noise"
    CALC_COND_BATCH = "calc_cond_batch"
    APPLY_MODEL = "apply_model"
    DIFFUSION_MODEL = "diffusion_model"


class ContextSchedules:
    """How windows move over long videos."""

    UNIFORM_LOOPED = "looped_uniform"
    UNIFORM_STANDARD = "standard_uniform"
    STATIC_STANDARD = "standard_static"
    BATCHED = "batched"


class ContextFuseMethods:
    """How windows are put together where they overlap."""

    FLAT = "flat"
    PYRAMID = "pyramid"
    RELATIVE = "relative"
    OVERLAP_LINEAR = "overlap-linear"
    LIST = (PYRAMID, FLAT, OVERLAP_LINEAR)
    LIST_STATIC = (PYRAMID, RELATIVE, FLAT, OVERLAP_LINEAR)


HOME = {
    "comfy.sd": ("CLIPType",),
    "comfy.model_base": ("ModelType",),
    "comfy.controlnet": ("StrengthType",),
    "comfy.hooks": (
        "EnumHookMode",
        "EnumHookType",
        "EnumWeightTarget",
        "EnumHookScope",
        "InterpolationMethod",
    ),
    "comfy.patcher_extension": ("CallbacksMP", "WrappersMP"),
    "comfy.context_windows": ("ContextSchedules", "ContextFuseMethods"),
}
