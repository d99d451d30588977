"""``comfy_extras.nodes_hooks``: pairs of conditionings with masks and times. Hooks themselves need a model."""

from __future__ import annotations

from typing import Any

from .._standins import names_only, refuse
from ..node_helpers import conditioning_set_values
from ._base import ExtraNode

__getattr__ = names_only(__name__)

_PROPERTIES = {
    "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}),
    "set_cond_area": (["default", "mask bounds"],),
}
_OPTIONAL = {"mask": ("MASK",), "hooks": ("HOOKS",), "timesteps": ("TIMESTEPS_RANGE",)}


def _with_properties(
    conditioning: Any, strength: float, area: str, mask: Any, hooks: Any, timesteps: Any
) -> Any:
    if hooks is not None:
        refuse("comfy.hooks")
    if mask is not None:
        values = {
            "mask": mask.unsqueeze(0) if mask.ndim < 3 else mask,
            "set_area_to_bounds": area != "default",
            "mask_strength": strength,
        }
        conditioning = conditioning_set_values(conditioning, values)
    if timesteps is not None:
        times = {"start_percent": timesteps[0], "end_percent": timesteps[1]}
        conditioning = conditioning_set_values(conditioning, times)
    return conditioning


class _Conditionings(ExtraNode):
    """Takes conditionings by name and gives as many as it has outputs."""

    _names: tuple[str, ...]
    _more: dict[str, Any] = {}
    _optional: dict[str, Any] = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        declared: dict[str, Any] = {"required": {**dict.fromkeys(cls._names, ("CONDITIONING",)), **cls._more}}
        if cls._optional:
            declared["optional"] = cls._optional
        return declared

    EXPERIMENTAL = True
    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES: tuple[str, ...] = ("positive", "negative")
    CATEGORY = "advanced/hooks/cond pair"
    FUNCTION = "set_properties"


class PairConditioningSetProperties(_Conditionings):
    """A mask and a time for both conditionings."""

    _names, _more, _optional = ("positive_NEW", "negative_NEW"), _PROPERTIES, _OPTIONAL

    def set_properties(
        self,
        positive_NEW: Any,
        negative_NEW: Any,
        strength: float,
        set_cond_area: str,
        mask: Any = None,
        hooks: Any = None,
        timesteps: Any = None,
    ) -> tuple[Any, Any]:
        given = (strength, set_cond_area, mask, hooks, timesteps)
        return _with_properties(positive_NEW, *given), _with_properties(negative_NEW, *given)


class PairConditioningSetPropertiesAndCombine(_Conditionings):
    """The same, added to a pair that is there already."""

    _names = ("positive", "negative", "positive_NEW", "negative_NEW")
    _more, _optional = _PROPERTIES, _OPTIONAL

    def set_properties(
        self,
        positive: Any,
        negative: Any,
        positive_NEW: Any,
        negative_NEW: Any,
        strength: float,
        set_cond_area: str,
        mask: Any = None,
        hooks: Any = None,
        timesteps: Any = None,
    ) -> tuple[Any, Any]:
        given = (strength, set_cond_area, mask, hooks, timesteps)
        return (
            [*positive, *_with_properties(positive_NEW, *given)],
            [*negative, *_with_properties(negative_NEW, *given)],
        )


class ConditioningSetProperties(_Conditionings):
    """A mask and a time for a conditioning."""

    _names: tuple[str, ...] = ("cond_NEW",)
    _more, _optional = _PROPERTIES, _OPTIONAL
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("CONDITIONING",)
    CATEGORY = "advanced/hooks/cond single"

    def set_properties(
        self,
        cond_NEW: Any,
        strength: float,
        set_cond_area: str,
        mask: Any = None,
        hooks: Any = None,
        timesteps: Any = None,
    ) -> tuple[Any]:
        return (_with_properties(cond_NEW, strength, set_cond_area, mask, hooks, timesteps),)


class ConditioningSetPropertiesAndCombine(ConditioningSetProperties):
    """The same, added to one that is there already."""

    _names = ("cond", "cond_NEW")

    def set_properties(  # type: ignore[override]
        self,
        cond: Any,
        cond_NEW: Any,
        strength: float,
        set_cond_area: str,
        mask: Any = None,
        hooks: Any = None,
        timesteps: Any = None,
    ) -> tuple[Any]:
        return ([*cond, *_with_properties(cond_NEW, strength, set_cond_area, mask, hooks, timesteps)],)


class PairConditioningCombine(_Conditionings):
    """Both conditionings of two pairs in one."""

    _names = ("positive_A", "negative_A", "positive_B", "negative_B")
    FUNCTION = "combine"

    def combine(self, positive_A: Any, negative_A: Any, positive_B: Any, negative_B: Any) -> tuple[Any, Any]:
        return [*positive_A, *positive_B], [*negative_A, *negative_B]


def _default(conditioning: Any, hooks: Any) -> Any:
    if hooks is not None:
        refuse("comfy.hooks")
    return conditioning_set_values(conditioning, {"default": True})


class PairConditioningSetDefaultAndCombine(_Conditionings):
    """A pair for where no other conditioning reaches."""

    _names = ("positive", "negative", "positive_DEFAULT", "negative_DEFAULT")
    _optional = {"hooks": ("HOOKS",)}
    FUNCTION = "set_default_and_combine"

    def set_default_and_combine(
        self, positive: Any, negative: Any, positive_DEFAULT: Any, negative_DEFAULT: Any, hooks: Any = None
    ) -> tuple[Any, Any]:
        return [*positive, *_default(positive_DEFAULT, hooks)], [
            *negative,
            *_default(negative_DEFAULT, hooks),
        ]


class ConditioningSetDefaultAndCombine(_Conditionings):
    """A conditioning for where no other reaches."""

    _names = ("cond", "cond_DEFAULT")
    _optional = {"hooks": ("HOOKS",)}
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("CONDITIONING",)
    CATEGORY = "advanced/hooks/cond single"
    FUNCTION = "set_default_and_combine"

    def set_default_and_combine(self, cond: Any, cond_DEFAULT: Any, hooks: Any = None) -> tuple[Any]:
        return ([*cond, *_default(cond_DEFAULT, hooks)],)


class ConditioningTimestepsRange(ExtraNode):
    """A range of sampling, with what comes before and after it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"min": 0.0, "max": 1.0, "step": 0.001}
        return {
            "required": {
                "start_percent": ("FLOAT", {"default": 0.0, **share}),
                "end_percent": ("FLOAT", {"default": 1.0, **share}),
            }
        }

    EXPERIMENTAL = True
    RETURN_TYPES = ("TIMESTEPS_RANGE", "TIMESTEPS_RANGE", "TIMESTEPS_RANGE")
    RETURN_NAMES = ("TIMESTEPS_RANGE", "BEFORE_RANGE", "AFTER_RANGE")
    CATEGORY = "advanced/hooks"
    FUNCTION = "create_range"

    def create_range(self, start_percent: float, end_percent: float) -> tuple[Any, Any, Any]:
        return (start_percent, end_percent), (0.0, start_percent), (end_percent, 1.0)


NODE_CLASS_MAPPINGS = {
    "PairConditioningSetProperties": PairConditioningSetProperties,
    "PairConditioningSetPropertiesAndCombine": PairConditioningSetPropertiesAndCombine,
    "ConditioningSetProperties": ConditioningSetProperties,
    "ConditioningSetPropertiesAndCombine": ConditioningSetPropertiesAndCombine,
    "PairConditioningCombine": PairConditioningCombine,
    "PairConditioningSetDefaultCombine": PairConditioningSetDefaultAndCombine,
    "ConditioningSetDefaultCombine": ConditioningSetDefaultAndCombine,
    "ConditioningTimestepsRange": ConditioningTimestepsRange,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "PairConditioningSetProperties": "Cond Pair Set Props",
    "PairConditioningSetPropertiesAndCombine": "Cond Pair Set Props Combine",
    "ConditioningSetProperties": "Cond Set Props",
    "ConditioningSetPropertiesAndCombine": "Cond Set Props Combine",
    "PairConditioningCombine": "Cond Pair Combine",
    "PairConditioningSetDefaultCombine": "Cond Pair Set Default Combine",
    "ConditioningSetDefaultCombine": "Cond Set Default Combine",
    "ConditioningTimestepsRange": "Timesteps Range",
}
