"""``comfy.cli_args``: the options ComfyUI was started with, as they would be without any.

Unknown options raise ``AttributeError``, as in ComfyUI. Setting one here changes nothing outside this sandbox.
"""

from __future__ import annotations

import argparse
import enum


class LatentPreviewMethod(enum.Enum):
    NoPreviews = "none"
    Auto = "auto"
    Latent2RGB = "latent2rgb"
    TAESD = "taesd"

    @classmethod
    def from_string(cls, value: str) -> LatentPreviewMethod | None:
        return next((member for member in cls if member.value == value), None)


class PerformanceFeature(enum.Enum):
    Fp16Accumulation = "fp16_accumulation"
    Fp8MatrixMultiplication = "fp8_matrix_mult"
    CublasOps = "cublas_ops"
    AutoTune = "autotune"


def is_valid_directory(path: str) -> str:
    """The path, if it is a directory.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    import os

    if not os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path} is not a directory")
    return path


_OFF = [
    "auto_launch",
    "async_offload",
    "bf16_text_enc",
    "bf16_unet",
    "bf16_vae",
    "cache_classic",
    "cache_none",
    "cpu_vae",
    "deterministic",
    "directml_enabled",
    "disable_all_custom_nodes",
    "disable_api_nodes",
    "disable_async_offload",
    "disable_auto_launch",
    "disable_cuda_malloc",
    "disable_dynamic_vram",
    "disable_ipex_optimize",
    "disable_metadata",
    "disable_mmap",
    "disable_pinned_memory",
    "disable_smart_memory",
    "disable_xformers",
    "dont_print_server",
    "dont_upcast_attention",
    "enable_assets",
    "enable_compress_response_body",
    "enable_manager",
    "fast_disk",
    "force_channels_last",
    "force_fp16",
    "force_fp32",
    "force_non_blocking",
    "force_upcast_attention",
    "fp16_intermediates",
    "fp16_text_enc",
    "fp16_unet",
    "fp16_vae",
    "fp32_text_enc",
    "fp32_unet",
    "fp32_vae",
    "fp64_unet",
    "fp8_e4m3fn_text_enc",
    "fp8_e4m3fn_unet",
    "fp8_e5m2_text_enc",
    "fp8_e5m2_unet",
    "fp8_e8m0fnu_unet",
    "gpu_only",
    "highvram",
    "log_stdout",
    "lowvram",
    "mmap_torch_files",
    "multi_user",
    "normalvram",
    "novram",
    "quick_test_for_ci",
    "supports_fp8_compute",
    "use_flash_attention",
    "use_pytorch_cross_attention",
    "use_quad_cross_attention",
    "use_sage_attention",
    "use_split_cross_attention",
    "windows_standalone_build",
    "whitelist_custom_nodes",
]

args = argparse.Namespace(
    **dict.fromkeys(_OFF, False),
    base_directory=None,
    cache_lru=0,
    cache_ram=0,
    cpu=True,
    cuda_device=None,
    cuda_malloc=False,
    comfy_api_base="https://api.comfy.org",
    database_url="sqlite://",
    default_device=None,
    default_hashing_function="sha256",
    directml=None,
    enable_cors_header=None,
    extra_model_paths_config=None,
    fast=set(),
    front_end_root=None,
    front_end_version="",
    input_directory=None,
    listen="127.0.0.1",
    max_upload_size=100,
    oneapi_device_selector=None,
    output_directory=None,
    port=8188,
    preview_method=LatentPreviewMethod.NoPreviews,
    preview_size=512,
    reserve_vram=None,
    temp_directory=None,
    tls_certfile=None,
    tls_keyfile=None,
    user_directory=None,
    verbose="INFO",
)
args.whitelist_custom_nodes = []

parser = argparse.ArgumentParser(prog="ComfyUI", add_help=False)
