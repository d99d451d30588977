"""Differences that are meant: ComfyUI's own releases differ, or ours goes on where ComfyUI fails."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

#: The release that ours follows; of newer ones only results are compared, since they rename and move things.
FOLLOWED = (0, 25, 0)
_NEVER = (math.inf,)
_GOES_ON = r"^theirs: \w+: .*; ours: a result"


@dataclass(frozen=True)
class Known:
    """Problems of a node that match ``pattern`` are meant, in checkouts from ``since`` on and before ``until``."""

    node: str
    pattern: str
    note: str
    until: tuple[float, ...] = _NEVER
    since: tuple[float, ...] = (0,)


KNOWN = [
    Known(
        "EmptyLatentImage",
        "downscale_ratio_spacial",
        "later releases say for which scale the latent is",
        (0, 4),
    ),
    Known("ImageBatch", _GOES_ON, "later releases fill in missing channels", (0, 4)),
    Known("ImageBlend", _GOES_ON, "later releases fill in missing channels", (0, 4)),
    Known("ImageCompositeMasked", _GOES_ON, "later releases fill in missing channels", (0, 4)),
    Known("PreviewAny", r"^output|^result", "later releases give the text on", (0, 4)),
    Known("PrimitiveFloat", r"^input value.*'step': 0\.1", "later releases have this step", (0, 4)),
    Known("LoadImageMask", r"^input image.*saved\.latent", "later releases list only pictures", (0, 4)),
    Known("ImageQuantize", _GOES_ON, "Pillow refuses four channels under the name that ComfyUI gives them"),
    Known("LatentInterpolate", _GOES_ON, "ComfyUI interpolates batches of one only; ours any"),
    Known(
        "LoadImage",
        r"deep\.png",
        "16 bits of grey: ours scales to 8; ComfyUI with this Pillow makes everything above 255 white",
        (0, 4),
    ),
    Known("LoadImageMask", r"deep\.png", "as LoadImage", (0, 4)),
    *[
        Known(node, r"downscale_ratio", "releases after 0.25 say for which scale the latent is", since=(0, 26))
        for node in ("EmptyHunyuanLatentVideo", "EmptyLTXVLatentVideo", "EmptyLatentAudio", "EmptySD3LatentImage")
    ],
    *[
        Known(node, r"^result: theirs .*ours 'None'", "releases after 0.25 give the input on", since=(0, 26))
        for node in (
            "MaskPreview", "PreviewImage", "SaveAnimatedPNG", "SaveAnimatedWEBP", "SaveImage", "SaveLatent",
            "SaveSVGNode",
        )
    ],
    *[
        Known(node, r"^result|^theirs", "releases after 0.25 decode with PyAV, which rounds otherwise", since=(0, 26))
        for node in ("LoadImage", "LoadImageMask", "WebcamCapture")
    ],
    *[
        Known(node, r"batch_index\": -", "releases after 0.25 count negative numbers from the end", since=(0, 26))
        for node in ("ImageFromBatch", "LatentFromBatch")
    ],
    Known("FeatherMask", r"^result", "releases after 0.25 do not begin right and bottom at 0", since=(0, 26)),
    Known("JoinImageWithAlpha", r"^result", "releases after 0.25 repeat the shorter batch", since=(0, 26)),
    *[
        Known(node, r"^ui: theirs has", "releases after 0.25 say otherwise whether it moves", since=(0, 26))
        for node in ("MaskPreview", "SaveAnimatedPNG", "SaveAnimatedWEBP")
    ],
    Known("MaskPreview", r"^file .*theirs has \[\]", "releases after 0.25 keep no workflow in it", since=(0, 26)),
    Known("PreviewAny", r"^result|^ui", "releases after 0.25 indent JSON", since=(0, 26)),
]  # fmt: skip


def settle(report: Any, version: tuple[int, ...]) -> None:
    """Move the problems that are meant from a report's problems to its notes."""
    for known in KNOWN:
        if known.node != report.node or not known.since <= version < known.until:
            continue
        left = [problem for problem in report.problems if not re.search(known.pattern, problem)]
        if len(left) < len(report.problems) and known.note not in report.note:
            report.note = "; ".join(filter(None, [report.note, known.note]))
        report.problems = left
