"""By how much a number may differ, and why. Everything that is not here is the same to the last bit."""

from __future__ import annotations

_ORDER = "the same sums of 32-bit floats in another order"
_TOLERANCES: dict[str, tuple[float, str]] = {
    "ImageBlur": (1e-6, _ORDER),
    "ImageSharpen": (2e-5, f"{_ORDER}, times ten"),
    "LatentOperationSharpen": (1e-4, f"{_ORDER}, times up to fifty"),
    "LatentUpscale": (2e-5, f"bislerp: {_ORDER}"),
    "LatentUpscaleBy": (2e-5, f"bislerp: {_ORDER}"),
    "ImageRGBToYUV": (1e-6, _ORDER),
    "ImageYUVToRGB": (1e-6, _ORDER),
    "ImageMergeTileList": (1e-6, _ORDER),
}


def of(node: str) -> float:
    return _TOLERANCES.get(node, (0.0, ""))[0]


def reason(node: str) -> str:
    return _TOLERANCES.get(node, (0.0, ""))[1]
