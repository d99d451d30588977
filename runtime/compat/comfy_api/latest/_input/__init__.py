"""Values that nodes receive: ``Input.Image``, ``Input.Video`` ..."""

from .basic_types import AudioInput, ImageInput, LatentInput, MaskInput
from .curve_types import CurveInput, CurvePoint, LinearCurve, MonotoneCubicCurve, RangeInput
from .video_types import VideoInput

__all__ = [
    "AudioInput",
    "CurveInput",
    "CurvePoint",
    "ImageInput",
    "LatentInput",
    "LinearCurve",
    "MaskInput",
    "MonotoneCubicCurve",
    "RangeInput",
    "VideoInput",
]
