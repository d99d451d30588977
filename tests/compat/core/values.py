"""Values that both sides of the comparison make from the same description: JSON in, tensors and files out."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def build(spec: Any) -> Any:
    """Turn ``{"$image": shape, "seed": n}`` and its kin into values, within lists and dicts."""
    import torch

    if isinstance(spec, list):
        return [build(item) for item in spec]
    if spec == "$half":
        return lambda latent, **more: latent * 0.5
    if not isinstance(spec, dict):
        return spec
    random_numbers = torch.Generator().manual_seed(spec.get("seed", 0))
    if "$svg" in spec:
        return SimpleNamespace(data=[io.BytesIO(text.encode()) for text in spec["$svg"]])
    if "$float" in spec:
        return float(spec["$float"])
    if "$image" in spec:
        return torch.rand(spec["$image"], generator=random_numbers)
    if "$mask" in spec:
        return _mask(spec["$mask"], spec.get("kind", "noise"), random_numbers)
    if "$tensor" in spec:
        return torch.randn(spec["$tensor"], generator=random_numbers)
    if "$latent" in spec:
        latent: dict[str, Any] = {"samples": torch.randn(spec["$latent"], generator=random_numbers)}
        if "noise_mask" in spec:
            latent["noise_mask"] = torch.rand(spec["noise_mask"], generator=random_numbers)
        latent.update({key: spec[key] for key in ("batch_index", "downscale_ratio_spacial") if key in spec})
        return latent
    if "$sigmas" in spec:
        count = spec["$sigmas"]
        return (
            torch.cat([torch.linspace(14.0, 0.1, count) ** 1.1, torch.zeros(1)]) if count else torch.zeros(0)
        )
    if "$conditioning" in spec:
        return _conditioning(spec["$conditioning"], random_numbers)
    if "$tuple" in spec:
        return tuple(build(item) for item in spec["$tuple"])
    return {key: build(value) for key, value in spec.items()}


def _mask(shape: list[int], kind: str, random_numbers: Any) -> Any:
    import torch

    if kind == "ones":
        return torch.ones(shape)
    if kind == "box":
        mask = torch.zeros(shape)
        mask[..., shape[-2] // 4 : shape[-2] // 2, shape[-1] // 4 : shape[-1] * 3 // 4] = 1.0
        return mask
    return torch.rand(shape, generator=random_numbers)


def _conditioning(entries: list[dict[str, Any]], random_numbers: Any) -> list[list[Any]]:
    import torch

    made = []
    for entry in entries:
        extra: dict[str, Any] = {
            key: value for key, value in entry.items() if key not in {"tokens", "pooled"}
        }
        if entry.get("pooled"):
            extra["pooled_output"] = torch.randn((1, 16), generator=random_numbers)
        made.append([torch.randn((1, entry["tokens"], 16), generator=random_numbers), extra])
    return made


def make_input_files(directory: Path) -> None:
    """Pictures of many kinds, one latent and some texts, the same for both sides."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    numbers = np.random.default_rng(7)
    colours = numbers.integers(0, 256, (37, 53, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(colours[..., :3].copy()), Image.fromarray(colours)
    texts = PngInfo()
    texts.add_text("prompt", "{}")
    rgba.save(directory / "alpha.png", pnginfo=texts)
    rgb.save(directory / "colour.png")
    rgb.convert("L").save(directory / "grey.png")
    rgba.convert("LA").save(directory / "grey alpha.png")
    rgb.convert("1").save(directory / "bits.png")
    rgb.quantize(16).save(directory / "palette.png", transparency=3)
    rgb.quantize(16).save(directory / "palette opaque.png")
    Image.fromarray(numbers.integers(0, 65536, (20, 30), dtype=np.uint16)).save(directory / "deep.png")
    rgb.save(directory / "photo.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(directory / "turned.jpg", quality=95, exif=exif)
    rgb.convert("CMYK").save(directory / "print.jpg", quality=95)
    rgba.save(directory / "picture.webp", lossless=True)
    frames = [Image.fromarray(numbers.integers(0, 256, (9, 12, 3), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(directory / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    frames[0].save(directory / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(directory / "moving.png", save_all=True, append_images=frames[1:])
    rgb.save(directory / "picture.bmp")
    rgb.save(directory / "picture.tiff")
    (directory / "folder").mkdir()
    for number in range(3):
        Image.fromarray(colours[: 20 + number, :30, :3].copy()).save(directory / "folder" / f"{number}.png")
        (directory / "folder" / f"{number}.txt").write_text(f"text of {number}\n", encoding="utf-8")
    _latent_file(directory / "saved.latent")


def _latent_file(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    samples = torch.randn((1, 4, 5, 6), generator=torch.Generator().manual_seed(3))
    save_file({"latent_tensor": samples, "latent_format_version_0": torch.tensor([])}, str(path))


# -- drawing inputs for a node from its declaration ------------------------------------------------------------------

IMAGES = [[1, 37, 53, 3], [3, 16, 24, 3], [2, 33, 20, 4], [1, 64, 48, 3], [1, 9, 8, 3]]
MASKS = [[1, 37, 53], [3, 16, 24], [33, 20], [1, 64, 48], [2, 9, 8]]
LATENTS: list[dict[str, Any]] = [
    {"$latent": [1, 4, 8, 12]},
    {"$latent": [3, 4, 7, 9], "batch_index": [4, 5, 9]},
    {"$latent": [2, 16, 16, 8], "noise_mask": [1, 1, 128, 64]},
    {"$latent": [1, 4, 9, 5], "noise_mask": [72, 40]},
    {"$latent": [1, 16, 5, 6, 8]},
]
CONDITIONINGS: list[list[dict[str, Any]]] = [
    [{"tokens": 7, "pooled": True}],
    [{"tokens": 4}, {"tokens": 9, "pooled": True, "strength": 0.4}],
    [{"tokens": 77, "pooled": True, "guidance": 3.0}],
]
TEXTS = [
    "", "Hello World", "  spaces\tand\nlines \n", "äöü ÄÖÜ ß 漢字", "a,b;c", "aaa", "(x",
    "line one\nline two\nLine One", "3.5", '{"a": {"b": [1, 2]}, "c": null}', "o", "World", "[a-z]+", r"(\w+) (\w+)",
]  # fmt: skip


#: Inputs that multiply memory.
_COUNTS = {"batch_size", "amount"}


class Drawer:
    """Draws inputs for one case of a node; the first case is the defaults, then edges, then random."""

    def __init__(self, node: str, number: int) -> None:
        self.random = random.Random(f"{node}/{number}")
        self.number = number
        self.shape = number if number < 2 else self.random.randrange(5)

    def value(self, kind: Any, options: dict[str, Any], name: str = "") -> Any:
        """Describe a value for an input of type ``kind``; None when there is no way to make one."""
        if name in _COUNTS and kind == "INT":
            return int(options.get("min", 1)) + self.number % 4
        if isinstance(kind, list) or kind == "COMBO":
            choices = kind if isinstance(kind, list) else options.get("options", [])
            return self._choice(choices, options)
        draw = (
            getattr(self, f"_{kind.lower()}", None) if isinstance(kind, str) and kind.isidentifier() else None
        )
        return None if draw is None else draw(options)

    def _choice(self, choices: list[Any], options: dict[str, Any]) -> Any:
        if not choices:
            return None
        if self.number == 0:
            return options.get("default", choices[0])
        return choices[(self.number - 1) % len(choices)]

    def _int(self, options: dict[str, Any]) -> int:
        default, low = int(options.get("default", 0)), int(options.get("min", 0))
        high = int(options.get("max", 64))
        if self.number == 0 and default <= 512:
            return default
        edge = self.random.randrange(6)
        if edge == 0:
            return max(low, -32)
        if edge == 1 and high <= 100:
            return high
        low = max(low, -32)
        step = int(options.get("step", 1) or 1)
        return min(low + step * self.random.randrange(max(1, min(high - low, 80) // step + 1)), high)

    def _float(self, options: dict[str, Any]) -> float:
        low, high = float(options.get("min", 0.0)), float(options.get("max", 1.0))
        low, high = max(low, -20.0), min(high, 20.0)
        if self.number == 0:
            return float(options.get("default", low))
        edge = self.random.randrange(6)
        if edge < 2:
            return (low, high)[edge]
        return round(self.random.uniform(low, min(high, low + 4.0) if edge == 2 else high), 3)

    def _boolean(self, options: dict[str, Any]) -> bool:
        return bool(options.get("default", False)) if self.number == 0 else self.number % 2 == 1

    def _string(self, options: dict[str, Any]) -> str:
        return str(options.get("default") or "a") if self.number == 0 else self.random.choice(TEXTS)

    def _image(self, _: Any) -> Any:
        return {"$image": self._varied(IMAGES), "seed": self.random.randrange(1 << 30)}

    def _mask(self, _: Any) -> Any:
        kind = self.random.choice(["noise", "box", "noise", "ones"])
        return {"$mask": self._varied(MASKS), "seed": self.random.randrange(1 << 30), "kind": kind}

    def _latent(self, _: Any) -> Any:
        return {**self._varied(LATENTS), "seed": self.random.randrange(1 << 30)}

    def _conditioning(self, _: Any) -> Any:
        return {"$conditioning": self._varied(CONDITIONINGS), "seed": self.random.randrange(1 << 30)}

    def _sigmas(self, _: Any) -> Any:
        return {"$sigmas": self.random.choice([20, 5, 1, 12]) if self.number else 20}

    def _bounding_box(self, _: Any) -> Any:
        draw = self.random.randrange
        return {"x": draw(20), "y": draw(20), "width": 1 + draw(30), "height": 1 + draw(30)}

    def _color(self, options: dict[str, Any]) -> Any:
        return self.random.choice(["#ff8000", "#000000", "#1a2b3c", options.get("default", "#ffffff")])

    def _array(self, _: Any) -> Any:
        return self.random.choice([[], [1, 2, 3], ["a", {"b": None}], [[1.5, True], "ä"]])

    def _dict(self, _: Any) -> Any:
        return self.random.choice([{}, {"a": 1}, {"b": {"c": [1, 2]}, "ä": "x"}])

    def _varied(self, table: list[Any]) -> Any:
        """Mostly the same row for all inputs of a case, so that sizes fit; now and then another."""
        row = self.shape if self.random.random() < 0.7 else self.random.randrange(len(table))
        return table[row % len(table)]


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
