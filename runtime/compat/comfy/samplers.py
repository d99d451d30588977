"""``comfy.samplers``: the lists of sampler and scheduler names are real, because packs offer them in menus.

Sampling itself needs a model: every other name can be imported and subclassed, and refuses when called.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .._standins import StandInType, names_only, refuse, stand_in

KSAMPLER_NAMES: list[str] = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "exp_heun_2_x0",
    "exp_heun_2_x0_sde",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
]
SAMPLER_NAMES: list[str] = [*KSAMPLER_NAMES, "ddim", "uni_pc", "uni_pc_bh2"]


class SchedulerHandler(NamedTuple):
    """What a scheduler name stands for; packs add their own to ``SCHEDULER_HANDLERS``."""

    handler: Any
    use_ms: bool = True


def _scheduler(name: str) -> SchedulerHandler:
    def handler(*args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        refuse(f"the scheduler {name!r} of comfy.samplers")

    return SchedulerHandler(handler)


SCHEDULER_HANDLERS: dict[str, SchedulerHandler] = {
    name: _scheduler(name)
    for name in [
        "simple",
        "sgm_uniform",
        "karras",
        "exponential",
        "ddim_uniform",
        "beta",
        "normal",
        "linear_quadratic",
        "kl_optimal",
    ]
}
SCHEDULER_NAMES: list[str] = list(SCHEDULER_HANDLERS)

KSampler: StandInType = stand_in("comfy.samplers.KSampler")
KSampler.SCHEDULERS = SCHEDULER_NAMES  # type: ignore[attr-defined]
KSampler.SAMPLERS = SAMPLER_NAMES  # type: ignore[attr-defined]
KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS = {"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"}  # type: ignore[attr-defined]

__getattr__ = names_only(__name__)
