"""``comfy.model_management``: which device to use and how much memory there is. True answers for this sandbox.

No models are kept here, so nothing is ever loaded or unloaded: ``load_models_gpu`` refuses, the functions that free
memory have nothing to free beyond torch's own cache.
"""

from __future__ import annotations

import enum
from typing import Any

from ...sdk import interruption
from .._standins import names_only, refuse

InterruptProcessingException = interruption.InterruptProcessingException

MODEL_NAMES = [
    "LoadedModel",
    "archive_model_dtypes",
    "cast_to",
    "cast_bias_weight",
    "cleanup_models",
    "cleanup_models_gc",
    "force_channels_last",
    "get_computation_dtype",
    "lora_compute_dtype",
    "pin_memory",
    "unpin_memory",
    "loaded_models_memory_required",
    "use_more_memory",
    "offloaded_memory",
    "supports_cast",
    "sync_stream",
    "get_offload_stream",
]


class VRAMState(enum.Enum):
    DISABLED = 0
    NO_VRAM = 1
    LOW_VRAM = 2
    NORMAL_VRAM = 3
    HIGH_VRAM = 4
    SHARED = 5


class CPUState(enum.Enum):
    GPU = 0
    CPU = 1
    MPS = 2


current_loaded_models: list[Any] = []
directml_enabled = False
xpu_available = False
npu_available = False
mlu_available = False
ENABLE_PYTORCH_ATTENTION = False
XFORMERS_IS_AVAILABLE = False
XFORMERS_ENABLED_VAE = False
lowvram_available = True
EXTRA_RESERVED_VRAM = 400 * 1024 * 1024

_refused = names_only(__name__, MODEL_NAMES)


def __getattr__(name: str) -> Any:
    """Names that would need torch at import, and names of the model runtime."""
    if name == "OOM_EXCEPTION":
        import torch

        return torch.cuda.OutOfMemoryError
    if name == "vram_state":
        return VRAMState.NORMAL_VRAM if _has_gpu() else VRAMState.DISABLED
    if name == "set_vram_to":
        return VRAMState.NORMAL_VRAM
    if name == "cpu_state":
        return CPUState.GPU if _has_gpu() else CPUState.CPU
    if name in ("total_vram", "total_ram"):
        import torch

        device = get_torch_device() if name == "total_vram" else torch.device("cpu")
        return get_total_memory(device) / (1024 * 1024)
    if name == "torch_version":
        import torch

        return torch.__version__
    if name == "FLOAT8_TYPES":
        import torch

        return [torch.float8_e4m3fn, torch.float8_e5m2]
    return _refused(name)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


# -- devices -------------------------------------------------------------------------------------------------------
def get_torch_device() -> Any:
    """The sandbox's GPU if its policy gives it one, else the CPU."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if _has_gpu() else torch.device("cpu")


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def get_all_torch_devices(exclude_current: bool = False) -> list[Any]:
    import torch

    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] if _has_gpu() else [_cpu()]
    return [device for device in devices if device != get_torch_device()] if exclude_current else devices


def get_torch_device_name(device: Any) -> str:
    import torch

    if getattr(device, "type", "") == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return str(getattr(device, "type", device))


def unet_offload_device() -> Any:
    return _cpu()


def unet_inital_load_device(parameters: int, dtype: Any) -> Any:  # the misspelt name is ComfyUI's
    del parameters, dtype
    return get_torch_device()


def text_encoder_device() -> Any:
    return get_torch_device()


def text_encoder_offload_device() -> Any:
    return _cpu()


def text_encoder_initial_device(load_device: Any, offload_device: Any, model_size: int = 0) -> Any:
    del load_device, model_size
    return offload_device


def intermediate_device() -> Any:
    """Where values rest between nodes: always the CPU, from where they travel."""
    return _cpu()


def vae_device() -> Any:
    return get_torch_device()


def vae_offload_device() -> Any:
    return _cpu()


def get_autocast_device(dev: Any) -> str:
    return getattr(dev, "type", "cuda")


def is_device_type(device: Any, kind: str) -> bool:
    return getattr(device, "type", None) == kind


def is_device_cpu(device: Any) -> bool:
    return is_device_type(device, "cpu")


def is_device_cuda(device: Any) -> bool:
    return is_device_type(device, "cuda")


def is_device_mps(device: Any) -> bool:
    return is_device_type(device, "mps")


def is_device_xpu(device: Any) -> bool:
    return is_device_type(device, "xpu")


def is_nvidia() -> bool:
    import torch

    return _has_gpu() and torch.version.cuda is not None


def is_amd() -> bool:
    import torch

    return _has_gpu() and getattr(torch.version, "hip", None) is not None


def is_intel_xpu() -> bool:
    return False


def is_ascend_npu() -> bool:
    return False


def is_mlu() -> bool:
    return False


def is_ixuca() -> bool:
    return False


def is_directml_enabled() -> bool:
    return False


def mps_mode() -> bool:
    return False


def cpu_mode() -> bool:
    return not _has_gpu()


# -- number formats ------------------------------------------------------------------------------------------------
def should_use_fp16(
    device: Any = None, model_params: int = 0, prioritize_performance: bool = True, manual_cast: bool = False
) -> bool:
    """Half precision pays on a GPU only."""
    del model_params, prioritize_performance, manual_cast
    return _has_gpu() and not is_device_cpu(device)


def should_use_bf16(
    device: Any = None, model_params: int = 0, prioritize_performance: bool = True, manual_cast: bool = False
) -> bool:
    import torch

    del model_params, prioritize_performance, manual_cast
    return _has_gpu() and not is_device_cpu(device) and torch.cuda.is_bf16_supported()


def supports_fp8_compute(device: Any = None) -> bool:
    import torch

    del device
    return _has_gpu() and torch.cuda.get_device_capability() >= (8, 9)


def supports_dtype(device: Any, dtype: Any) -> bool:
    import torch

    if dtype == torch.float32:
        return True
    return not is_device_cpu(device) and dtype in (torch.float16, torch.bfloat16)


def supports_non_blocking(device: Any) -> bool:
    del device
    return False


def device_supports_non_blocking(device: Any) -> bool:
    return supports_non_blocking(device)


def device_should_use_non_blocking(device: Any) -> bool:
    del device
    return False


def unet_dtype(
    device: Any = None, model_params: int = 0, supported_dtypes: Any = None, weight_dtype: Any = None
) -> Any:
    import torch

    del weight_dtype
    supported = (
        [torch.float16, torch.bfloat16, torch.float32] if supported_dtypes is None else supported_dtypes
    )
    if torch.float16 in supported and should_use_fp16(device, model_params):
        return torch.float16
    if torch.bfloat16 in supported and should_use_bf16(device, model_params):
        return torch.bfloat16
    return torch.float32


def unet_manual_cast(weight_dtype: Any, inference_device: Any, supported_dtypes: Any = None) -> Any:
    import torch

    del supported_dtypes
    if weight_dtype in (torch.float32, torch.float64) or supports_dtype(inference_device, weight_dtype):
        return None
    return torch.float32


def text_encoder_dtype(device: Any = None) -> Any:
    """float16 on every device: what text encoders are kept in."""
    import torch

    del device
    return torch.float16


def vae_dtype(device: Any = None, allowed_dtypes: Any = ()) -> Any:
    import torch

    for dtype in allowed_dtypes:
        if dtype == torch.bfloat16 and should_use_bf16(device):
            return dtype
        if dtype == torch.float16 and should_use_fp16(device):
            return dtype
    return torch.float32


def intermediate_dtype() -> Any:
    import torch

    return torch.float32


def dtype_size(dtype: Any) -> int:
    return int(dtype.itemsize)


def cast_to_device(tensor: Any, device: Any, dtype: Any, copy: bool = False) -> Any:
    return tensor.to(device=device, dtype=dtype, copy=copy)


def pick_weight_dtype(dtype: Any, fallback_dtype: Any, device: Any = None) -> Any:
    if dtype is None or dtype_size(dtype) > dtype_size(fallback_dtype) or not supports_dtype(device, dtype):
        return fallback_dtype
    return dtype


# -- memory --------------------------------------------------------------------------------------------------------
def get_total_memory(dev: Any = None, torch_total_too: bool = False) -> Any:
    """Bytes this sandbox may use on a device: for the CPU, its memory cap."""
    import torch

    dev = get_torch_device() if dev is None else dev
    total = torch.cuda.mem_get_info(dev)[1] if is_device_cuda(dev) else _cpu_memory()[1]
    return (total, total) if torch_total_too else total


def get_free_memory(dev: Any = None, torch_free_too: bool = False) -> Any:
    import torch

    dev = get_torch_device() if dev is None else dev
    if is_device_cuda(dev):
        stats = torch.cuda.memory_stats(dev)
        kept = stats.get("reserved_bytes.all.current", 0) - stats.get("active_bytes.all.current", 0)
        free = torch.cuda.mem_get_info(dev)[0] + kept
        return (free, kept) if torch_free_too else free
    free = _cpu_memory()[0]
    return (free, free) if torch_free_too else free


def _cpu_memory() -> tuple[int, int]:
    """(free, total) bytes: the smaller of the machine's and of this control group's."""
    import os

    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    free = page * os.sysconf("SC_AVPHYS_PAGES")
    limit, used = _number_in("/sys/fs/cgroup/memory.max"), _number_in("/sys/fs/cgroup/memory.current")
    if limit is None:
        limit = _number_in("/sys/fs/cgroup/memory/memory.limit_in_bytes")
        used = _number_in("/sys/fs/cgroup/memory/memory.usage_in_bytes")
    if limit is not None and limit < total:
        total = limit
        free = min(free, max(0, limit - (used or 0)))
    return free, total


def _number_in(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def module_size(module: Any) -> int:
    """Bytes of a module's tensors."""
    return sum(tensor.nelement() * tensor.element_size() for tensor in module.state_dict().values())


def minimum_inference_memory() -> int:
    return 1024 * 1024 * 1024


def maximum_vram_for_weights(device: Any = None) -> float:
    return float(get_total_memory(device)) * 0.88 - minimum_inference_memory()


def extra_reserved_memory() -> int:
    return EXTRA_RESERVED_VRAM


def soft_empty_cache(force: bool = False) -> None:
    """Give torch's unused GPU memory back; on a CPU there is none."""
    del force
    if _has_gpu():
        import torch

        torch.cuda.empty_cache()


def free_memory(memory_required: float, device: Any, keep_loaded: Any = (), **_: Any) -> list[Any]:
    """No models are held here, so none is unloaded; returns the list of those that were: empty."""
    del memory_required, device, keep_loaded
    soft_empty_cache()
    return []


def unload_all_models() -> None:
    """No models are held here."""
    soft_empty_cache()


def unload_model_clones(model: Any, unload_weights_only: bool = True, force_unload: bool = True) -> None:
    """No models are held here."""
    del model, unload_weights_only, force_unload


def loaded_models(only_currently_used: bool = False) -> list[Any]:
    del only_currently_used
    return []


def load_models_gpu(models: Any, *args: Any, **kwargs: Any) -> None:
    """Loading nothing is fine; a model cannot be loaded here.

    Raises:
        NotProvidedError: there is a model to load.
    """
    del args, kwargs
    if list(models):
        refuse("comfy.model_management.load_models_gpu")


def load_model_gpu(model: Any) -> None:
    """As ``load_models_gpu``.

    Raises:
        NotProvidedError: always.
    """
    load_models_gpu([model])


def is_oom(error: BaseException) -> bool:
    import torch

    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))


def raise_non_oom(error: BaseException) -> None:
    if not is_oom(error):
        raise error


# -- attention -----------------------------------------------------------------------------------------------------
def xformers_enabled() -> bool:
    return False


def xformers_enabled_vae() -> bool:
    return False


def pytorch_attention_enabled() -> bool:
    return True


def pytorch_attention_enabled_vae() -> bool:
    return True


def pytorch_attention_flash_attention() -> bool:
    return _has_gpu()


def sage_attention_enabled() -> bool:
    return False


def flash_attention_enabled() -> bool:
    return False


def force_upcast_attention_dtype() -> dict[Any, Any]:
    return {}


# -- interruption --------------------------------------------------------------------------------------------------
def interrupt_current_processing(value: bool = True) -> None:
    """Ask the running node to stop (or take that back). Reaches this sandbox's own call only."""
    interruption.interrupt_current(value)


def processing_interrupted() -> bool:
    return interruption.is_interrupted()


def throw_exception_if_processing_interrupted() -> None:
    """Stop here if the user has asked for that.

    Raises:
        InterruptProcessingException: the user has.
    """
    interruption.check()
