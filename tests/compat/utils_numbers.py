"""Compare functions of the stand-ins with ComfyUI's own, number for number, on shared inputs.

    python tests/compat/utils_numbers.py CHECKOUT [--python PYTHON]

CHECKOUT is a ComfyUI source tree; PYTHON is an interpreter that has what it needs (default: this one). Each side runs
in a process of its own, calls every case of ``CASES`` and writes down what came back; then the two are compared. Prints
one line for each case; exit status 1 when one differs. That ours does what theirs cannot is no difference.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 2e-5
#: Where ours is meant to differ from 0.3.64, and why.
KNOWN = {
    "image_alpha_fix": "the source gets the missing alpha, as in newer versions; 0.3.64 widens the destination",
    "SAMPLER_NAMES": "newer versions have more",
    "folder names": "newer versions have more",
    "annotated_filepath": "0.3.64 cuts a character off a name that has no space before its annotation",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--side", choices=["theirs", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.checkout, options.into)
        return 0
    results = {}
    with tempfile.TemporaryDirectory() as place:
        for side in ("theirs", "ours"):
            into = Path(place, f"{side}.pt")
            command = [options.python, __file__, str(options.checkout), "--side", side, "--into", str(into)]
            subprocess.run(command, check=True)
            results[side] = load(into)
    bad = 0
    for name, theirs in results["theirs"].items():
        mine = results["ours"].get(name)
        if _raises(theirs) and not _raises(mine):
            print(f"more {name}: ours works where theirs {theirs}")
            continue
        difference = differs(theirs, mine)
        if difference is not None and name in KNOWN:
            print(f"known {name}: {KNOWN[name]}")
            continue
        bad += difference is not None
        print(f"{'ok  ' if difference is None else 'FAIL'} {name}{f': {difference}' if difference else ''}")
    print(f"{bad} of {len(results['theirs'])} differ")
    return 1 if bad else 0


def run_side(side: str, checkout: Path, into: Path) -> None:
    """Import one side's modules, run every case, write the results."""
    sys.argv = ["compare", "--cpu"]
    if side == "theirs":
        sys.path.insert(0, str(checkout))
        import comfy.options  # type: ignore[import-not-found]

        comfy.options.enable_args_parsing()
    else:
        sys.path.insert(0, str(ROOT))
        from runtime import aliases

        aliases.install()
    import torch

    results = {}
    for name, case in cases().items():
        torch.manual_seed(7)
        try:
            results[name] = case()
        except Exception as error:
            results[name] = f"raises {type(error).__name__}"
    torch.save(results, into)


def _raises(result: Any) -> bool:
    return isinstance(result, str) and result.startswith("raises ")


def load(path: Path) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def differs(theirs: Any, ours: Any) -> str | None:
    """The first difference, or None."""
    import torch

    if isinstance(theirs, torch.Tensor) and isinstance(ours, torch.Tensor):
        if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
            return f"{theirs.dtype} {tuple(theirs.shape)} became {ours.dtype} {tuple(ours.shape)}"
        if theirs.numel() == 0 or torch.equal(theirs, ours):
            return None
        distance = (theirs.double() - ours.double()).abs().max().item()
        return None if distance <= TOLERANCE else f"off by up to {distance:g}"
    if isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)):
        if len(theirs) != len(ours):
            return f"{len(theirs)} items became {len(ours)}"
        pairs = ((str(n), a, b) for n, (a, b) in enumerate(zip(theirs, ours, strict=True)))
    elif isinstance(theirs, dict) and isinstance(ours, dict):
        if list(theirs) != list(ours):
            return f"keys {list(theirs)} became {list(ours)}"
        pairs = ((str(key), theirs[key], ours[key]) for key in theirs)
    else:
        return None if theirs == ours else f"{theirs!r:.200} became {ours!r:.200}"
    for place, one, other in pairs:
        found = differs(one, other)
        if found:
            return f"[{place}] {found}"
    return None


def cases() -> dict[str, Callable[[], Any]]:
    """Every call that is compared; both sides see the same names."""
    import comfy.latent_formats  # type: ignore[import-not-found]
    import comfy.model_management  # type: ignore[import-not-found]
    import comfy.sample  # type: ignore[import-not-found]
    import comfy.samplers  # type: ignore[import-not-found]
    import comfy.utils  # type: ignore[import-not-found]
    import folder_paths  # type: ignore[import-not-found]
    import latent_preview  # type: ignore[import-not-found]
    import node_helpers  # type: ignore[import-not-found]
    import torch

    utils = comfy.utils
    made = torch.Generator().manual_seed(3)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=made)

    found: dict[str, Callable[[], Any]] = {}
    sizes = [(7, 5), (32, 32), (40, 12), (3, 64)]
    images = {"3x16x24": rand(2, 3, 16, 24), "4x9x9": rand(1, 4, 9, 9), "1x8x30": rand(1, 1, 8, 30)}
    for method in ("nearest-exact", "bilinear", "area", "bicubic", "lanczos", "bislerp"):
        for crop in ("disabled", "center"):
            for label, image in images.items():
                for width, height in sizes:
                    found[f"common_upscale {method} {crop} {label} to {width}x{height}"] = (
                        lambda i=image, w=width, h=height, m=method, c=crop: utils.common_upscale(
                            i, w, h, m, c
                        )
                    )
    video = rand(1, 4, 3, 8, 8)
    for method in ("nearest-exact", "bilinear", "bislerp"):
        found[f"common_upscale {method} of a video latent"] = lambda m=method: utils.common_upscale(
            video, 12, 6, m, "center"
        )
    _tiles(found, utils, rand)
    state = {"a.weight": rand(2, 3), "a.bias": rand(2), "b.x": rand(4).half(), "b.y": rand(1).half()}
    mask = rand(1, 8, 8)
    found |= {
        "state_dict_prefix_replace": lambda: utils.state_dict_prefix_replace(dict(state), {"a.": "c."}),
        "state_dict_prefix_replace filter": lambda: utils.state_dict_prefix_replace(
            dict(state), {"a.": "c."}, filter_keys=True
        ),
        "state_dict_key_replace": lambda: utils.state_dict_key_replace(
            dict(state), {"a.bias": "z", "no": "y"}
        ),
        "calculate_parameters": lambda: utils.calculate_parameters(state),
        "calculate_parameters prefix": lambda: utils.calculate_parameters(state, "b."),
        "weight_dtype": lambda: str(utils.weight_dtype(state)),
        "weight_dtype prefix": lambda: str(utils.weight_dtype(state, "b.")),
        "repeat_to_batch_size more": lambda: utils.repeat_to_batch_size(images["3x16x24"], 5),
        "repeat_to_batch_size fewer": lambda: utils.repeat_to_batch_size(images["3x16x24"], 1),
        "repeat_to_batch_size dim": lambda: utils.repeat_to_batch_size(images["3x16x24"], 5, dim=1),
        "resize_to_batch_size more": lambda: utils.resize_to_batch_size(rand_of(torch, 3), 7),
        "resize_to_batch_size fewer": lambda: utils.resize_to_batch_size(rand_of(torch, 7), 3),
        "resize_to_batch_size one": lambda: utils.resize_to_batch_size(rand_of(torch, 7), 1),
        "resize_list_to_batch_size": lambda: [
            utils.resize_list_to_batch_size(list(range(have)), wanted)
            for have in (0, 1, 3, 7)
            for wanted in (0, 1, 3, 5, 9)
        ],
        "get_supported_float8_types": lambda: [
            str(dtype) for dtype in comfy.model_management.get_supported_float8_types()
        ],
        "reshape_mask 2d": lambda: utils.reshape_mask(mask, (2, 4, 16, 16)),
        "reshape_mask 4d": lambda: utils.reshape_mask(rand_of(torch, 1, 1), (2, 4, 5, 5)),
        "reshape_mask 5d": lambda: utils.reshape_mask(mask, (1, 4, 3, 16, 16)),
        "string_to_seed": lambda: [utils.string_to_seed(text) for text in (b"", b"abc", b"\xff" * 9)],
        "get_tiled_scale_steps": lambda: [
            utils.get_tiled_scale_steps(w, h, x, y, o)
            for w, h, x, y, o in [(512, 512, 64, 64, 8), (100, 30, 64, 64, 16), (64, 65, 64, 32, 4)]
        ],
        "get_attr": lambda: utils.get_attr(torch.nn.Conv2d(1, 1, 1), "weight.shape"),
        "prepare_noise": lambda: comfy.sample.prepare_noise(torch.zeros(2, 4, 8, 8), 5),
        "prepare_noise inds": lambda: comfy.sample.prepare_noise(torch.zeros(3, 4, 8, 8), 5, [2, 0, 2]),
        "conditioning_set_values": lambda: node_helpers.conditioning_set_values(
            [[mask, {"a": 1}]], {"b": 2, "a": 3}
        ),
        "conditioning_set_values append": lambda: node_helpers.conditioning_set_values(
            [[mask, {"a": [1]}]], {"b": [2], "a": [3]}, append=True
        ),
        "image_alpha_fix": lambda: [
            list(node_helpers.image_alpha_fix(torch.ones(1, 4, 4, a), torch.zeros(1, 4, 4, b)))
            for a, b in [(3, 4), (4, 3), (3, 3)]
        ],
        "string_to_torch_dtype": lambda: [
            str(node_helpers.string_to_torch_dtype(name)) for name in ("fp32", "fp16", "bf16", "x")
        ],
        "LatentFormat": lambda: [
            comfy.latent_formats.LatentFormat().process_in(mask),
            comfy.latent_formats.LatentFormat().process_out(mask),
            comfy.latent_formats.LatentFormat.latent_channels,
        ],
        "preview_to_image": lambda: list(
            latent_preview.preview_to_image(rand_of(torch, 4, 5)[..., None].repeat(1, 1, 3)).tobytes()
        ),
        "SAMPLER_NAMES": lambda: list(comfy.samplers.KSampler.SAMPLERS),
        "SCHEDULER_NAMES": lambda: list(comfy.samplers.KSampler.SCHEDULERS),
        "filter_files_extensions": lambda: folder_paths.filter_files_extensions(
            ["b.PNG", "a.pt", "c.safetensors", "d"], {".pt", ".png"}
        ),
        "filter_files_content_types": lambda: folder_paths.filter_files_content_types(
            ["a.png", "b.mp4", "c.flac", "d.webp", "e.txt", "f"], ["image", "audio"]
        ),
        "annotated_filepath": lambda: [
            folder_paths.annotated_filepath(name)[0]
            for name in ("a.png", "a.png [input]", "b [temp]", "c[output]")
        ],
        "supported_pt_extensions": lambda: sorted(folder_paths.supported_pt_extensions),
        "folder names": lambda: sorted(folder_paths.folder_names_and_paths),
    }
    found |= _layers(torch)
    found |= _schedules(torch)
    found |= _management(comfy.model_management, torch)
    return found


def _tiles(found: dict[str, Callable[[], Any]], utils: Any, rand: Callable[..., Any]) -> None:
    import torch

    picture, strip, clip = rand(2, 3, 40, 56), rand(1, 4, 70), rand(1, 2, 12, 20, 24)

    def double(tile: Any) -> Any:
        return torch.nn.functional.interpolate(tile, scale_factor=2.0) + tile.mean()

    found |= {
        "tiled_scale": lambda: utils.tiled_scale(picture, double, 16, 24, 4, 2, out_channels=3),
        "tiled_scale one tile": lambda: utils.tiled_scale(picture, double, 64, 64, 8, 2, out_channels=3),
        "tiled_scale no overlap": lambda: utils.tiled_scale(picture, double, 16, 16, 0, 2, out_channels=3),
        "tiled_scale_multidim 1d": lambda: utils.tiled_scale_multidim(
            strip, double, tile=(20,), overlap=5, upscale_amount=2, out_channels=4
        ),
        "tiled_scale_multidim 3d": lambda: utils.tiled_scale_multidim(
            clip, double, tile=(4, 8, 10), overlap=(1, 2, 3), upscale_amount=2, out_channels=2
        ),
        "tiled_scale_multidim down": lambda: utils.tiled_scale_multidim(
            picture,
            lambda tile: torch.nn.functional.avg_pool2d(tile, 2),
            tile=(16, 16),
            overlap=4,
            upscale_amount=2,
            out_channels=3,
            downscale=True,
        ),
        "tiled_scale_multidim function": lambda: utils.tiled_scale_multidim(
            clip,
            double,
            tile=(4, 8, 10),
            overlap=2,
            upscale_amount=[lambda n: n * 2, 2, 2],
            out_channels=2,
        ),
    }


def _layers(torch: Any) -> dict[str, Callable[[], Any]]:
    import comfy.ldm.modules.attention  # type: ignore[import-not-found]
    import comfy.ops  # type: ignore[import-not-found]
    import comfy.sample
    import comfy.sampler_helpers  # type: ignore[import-not-found]

    layers = {
        "Linear": ((6, 4), (2, 3, 6)), "Conv1d": ((6, 4, 3), (2, 6, 9)), "Conv2d": ((6, 4, 3), (2, 6, 9, 7)),
        "Conv3d": ((6, 2, 3), (1, 6, 5, 5, 5)), "GroupNorm": ((3, 6), (2, 6, 5)), "LayerNorm": ((6,), (2, 3, 6)),
        "ConvTranspose2d": ((6, 2, 3, 2), (1, 6, 5, 4)), "ConvTranspose1d": ((6, 2, 3, 2), (1, 6, 5)),
    }  # fmt: skip

    def layer(space: str, name: str, dtype: Any) -> Any:
        arguments, shape = layers[name]
        made = getattr(getattr(comfy.ops, space), name)(*arguments)
        numbers = torch.Generator().manual_seed(1)
        for weight in made.parameters():
            weight.data = torch.rand(weight.shape, generator=numbers).to(dtype)
        with torch.no_grad():
            return made(torch.rand(shape, generator=numbers))

    def attention(name: str, tokens: tuple[int, int], mask: Any = None, **more: Any) -> Any:
        numbers = torch.Generator().manual_seed(2)
        q, k, v = (torch.rand(2, count, 8, generator=numbers) for count in (tokens[0], tokens[1], tokens[1]))
        if more.get("skip_reshape"):
            q, k, v = (part.reshape(2, -1, 2, 4).transpose(1, 2) for part in (q, k, v))
        return getattr(comfy.ldm.modules.attention, name)(q, k, v, 2, mask, **more)

    class Form:
        latent_channels, latent_dimensions, spacial_downscale_ratio = 16, 3, 8

    class Model:
        def get_model_object(self, name: str) -> Any:
            assert name == "latent_format"
            return Form

    mask = torch.eye(5, 7) > 0.5
    mask[:, 0] = True
    found: dict[str, Callable[[], Any]] = {}
    for name in layers:
        found[f"ops.disable_weight_init.{name}"] = lambda n=name: layer(
            "disable_weight_init", n, torch.float32
        )
        found[f"ops.manual_cast.{name}"] = lambda n=name: layer("manual_cast", n, torch.float16)
    for name in ("optimized_attention", "attention_basic", "attention_pytorch", "optimized_attention_masked"):
        found[name] = lambda n=name: attention(n, (5, 7))
        found[f"{name} mask"] = lambda n=name: attention(n, (5, 7), (~mask).float() * -30)
        found[f"{name} heads apart"] = lambda n=name: attention(n, (5, 7), skip_reshape=True)
    found["attention_pytorch boolean mask"] = lambda: attention("attention_pytorch", (5, 7), mask)
    found["attention_pytorch output apart"] = lambda: attention(
        "attention_pytorch", (5, 7), skip_output_reshape=True
    )
    found["optimized_attention_for_device"] = lambda: (
        comfy.ldm.modules.attention.optimized_attention_for_device(torch.device("cpu"), mask=True)(
            *[torch.ones(1, 3, 4)] * 3, 2
        )
    )
    found["fix_empty_latent_channels empty"] = lambda: comfy.sample.fix_empty_latent_channels(
        Model(), torch.zeros(1, 4, 8, 8)
    )
    found["fix_empty_latent_channels full"] = lambda: comfy.sample.fix_empty_latent_channels(
        Model(), torch.ones(1, 4, 8, 8)
    )
    found["sample.prepare_mask"] = lambda: comfy.sample.prepare_mask(
        torch.ones(1, 8, 8), (2, 4, 16, 16), torch.device("cpu")
    )
    found["convert_cond"] = lambda: [
        {key: value for key, value in entry.items() if key != "uuid"}
        for entry in comfy.sampler_helpers.convert_cond(
            [[torch.ones(2), {"a": 1}], [None, {"model_conds": {"b": 2}}]]
        )
    ]
    return found


def _schedules(torch: Any) -> dict[str, Callable[[], Any]]:
    from comfy.k_diffusion import sampling, utils  # type: ignore[import-not-found]

    found: dict[str, Callable[[], Any]] = {}
    for name, given in (
        ("karras", (0.03, 14.6, 5.0)),
        ("exponential", (0.03, 14.6)),
        ("polyexponential", (0.03, 14.6, 1.5)),
        ("laplace", (0.03, 14.6, 0.1, 0.6)),
        ("vp", (19.0, 0.2)),
    ):
        for steps in (1, 7, 20):
            found[f"get_sigmas_{name} {steps}"] = lambda name=name, given=given, steps=steps: getattr(
                sampling, f"get_sigmas_{name}"
            )(steps, *given)
    found["get_ancestral_step"] = lambda: [
        [float(part) for part in sampling.get_ancestral_step(*given)]
        for given in ((14.0, 8.0), (3.0, 1.0, 0.5), (3.0, 1.0, 0.0))
    ]
    found["to_d"] = lambda: sampling.to_d(
        torch.full((2, 3, 4), 5.0), torch.tensor([2.0, 3.0]), torch.ones(2, 3, 4)
    )
    found["default_noise_sampler"] = lambda: [
        sampling.default_noise_sampler(torch.zeros(2, 3), seed=7)(1, 0) for _ in range(2)
    ]
    found["IMG_EXTENSIONS"] = lambda: sorted(utils.FolderOfImages.IMG_EXTENSIONS)
    return found


def _management(management: Any, torch: Any) -> dict[str, Callable[[], Any]]:
    names = (
        "get_torch_device", "intermediate_device", "unet_offload_device", "text_encoder_device", "vae_device",
        "text_encoder_offload_device", "vae_offload_device",
    )  # fmt: skip
    found: dict[str, Callable[[], Any]] = {
        name: lambda n=name: str(getattr(management, n)()) for name in names
    }
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    found |= {
        "module_size": lambda: management.module_size(torch.nn.Linear(3, 4)),
        "dtype_size": lambda: [management.dtype_size(dtype) for dtype in dtypes.values()],
        "is_device_cpu": lambda: management.is_device_cpu(torch.device("cpu")),
        "is_device_mps": lambda: management.is_device_mps(torch.device("cpu")),
        "is_device_cuda": lambda: management.is_device_cuda(torch.device("cpu")),
        "get_autocast_device": lambda: str(management.get_autocast_device(torch.device("cpu"))),
        "should_use_fp16": lambda: management.should_use_fp16(),
        "should_use_bf16": lambda: management.should_use_bf16(torch.device("cpu")),
        "cast_to_device": lambda: management.cast_to_device(
            torch.ones(3), torch.device("cpu"), torch.float16
        ),
        "cpu_mode": lambda: management.cpu_mode(),
        "vram_state": lambda: management.vram_state.name,
        "OOM_EXCEPTION": lambda: issubclass(management.OOM_EXCEPTION, Exception),
        "unet_dtype": lambda: str(management.unet_dtype(torch.device("cpu"), 1000)),
        "text_encoder_dtype": lambda: str(management.text_encoder_dtype(torch.device("cpu"))),
        "vae_dtype": lambda: str(management.vae_dtype(torch.device("cpu"))),
    }
    return found


def rand_of(torch: Any, *shape: int) -> Any:
    """The same numbers on both sides, whatever was drawn before."""
    sizes = shape if len(shape) > 1 else (*shape, 3)
    return torch.arange(float(torch.tensor(sizes).prod())).reshape(sizes) / 7


if __name__ == "__main__":
    sys.exit(main())
