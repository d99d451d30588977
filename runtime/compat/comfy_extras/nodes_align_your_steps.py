"""``comfy_extras.nodes_align_your_steps``: the schedules of the paper "Align Your Steps"."""

from __future__ import annotations

from .._standins import names_only
from ._schedules import ListedSigmas

__getattr__ = names_only(__name__)

#: As published with the paper: ten steps for each kind of model.
NOISE_LEVELS = {
    "SD1": [
        14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904,
        0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582,
    ],
    "SDXL": [
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289,
        0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582,
    ],
    "SVD": [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
}  # fmt: skip


class AlignYourStepsScheduler(ListedSigmas):
    """Sigmas of "Align Your Steps"."""

    _levels = NOISE_LEVELS
    _steps = {"default": 10, "min": 1, "max": 10000}


NODE_CLASS_MAPPINGS = {"AlignYourStepsScheduler": AlignYourStepsScheduler}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
