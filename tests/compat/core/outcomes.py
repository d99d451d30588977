"""What two sides returned and wrote, against each other."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

_RANDOM_NAME = re.compile(r"(_temp_)[a-z]{5}(_)")


class Difference:
    """Collects where two outcomes differ."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.worst = 0.0
        self.problems: list[str] = []

    def compare(
        self, theirs: dict[str, Any], ours: dict[str, Any], their_files: Path, our_files: Path
    ) -> None:
        """Compare results, ui and files; two refusals are the same."""
        if "error" in theirs and "error" in ours:
            return
        if "error" in theirs or "error" in ours:
            self.problems.append(
                f"theirs: {theirs.get('error', 'a result')}; ours: {ours.get('error', 'a result')}"
            )
            return
        self._value("result", theirs["result"], ours["result"])
        self._value("ui", theirs["ui"], ours["ui"])
        names = [sorted(_RANDOM_NAME.sub(r"\1\2", name) for name in side["files"]) for side in (theirs, ours)]
        if names[0] != names[1]:
            self.problems.append(f"files: theirs {names[0]}, ours {names[1]}")
            return
        for one, other in zip(sorted(theirs["files"]), sorted(ours["files"]), strict=True):
            self._file(one, their_files / one, our_files / other)

    def _value(self, place: str, one: Any, other: Any) -> None:
        import torch

        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            self._tensor(place, one, other)
        elif isinstance(one, dict) and isinstance(other, dict):
            if sorted(one) != sorted(other):
                self.problems.append(f"{place}: theirs has {sorted(one)}, ours {sorted(other)}")
            for key in one:
                if key in other:
                    self._value(f"{place}.{key}", one[key], other[key])
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                self.problems.append(f"{place}: theirs has {len(one)} items, ours {len(other)}")
            for number, (a, b) in enumerate(zip(one, other, strict=False)):
                self._value(f"{place}[{number}]", a, b)
        elif isinstance(one, float) and isinstance(other, float):
            if not (
                one == other or (math.isnan(one) and math.isnan(other)) or abs(one - other) <= self.tolerance
            ):
                self.problems.append(f"{place}: theirs {one!r}, ours {other!r}")
        elif isinstance(one, str) and isinstance(other, str):
            if _RANDOM_NAME.sub(r"\1\2", one) != _RANDOM_NAME.sub(r"\1\2", other):
                self.problems.append(f"{place}: theirs {one[:200]!r}, ours {other[:200]!r}")
        elif type(one) is not type(other) or one != other:
            self.problems.append(f"{place}: theirs {str(one)[:200]!r}, ours {str(other)[:200]!r}")

    def _tensor(self, place: str, one: Any, other: Any) -> None:
        if one.shape != other.shape or one.dtype != other.dtype:
            shapes = [f"{list(tensor.shape)} {tensor.dtype}" for tensor in (one, other)]
            self.problems.append(f"{place}: theirs {shapes[0]}, ours {shapes[1]}")
            return
        if not one.numel():
            return
        off = (one.double() - other.double()).abs()
        off[one.isnan() & other.isnan()] = 0
        off[one == other] = 0
        most = float(off.max())
        self.worst = max(self.worst, 0.0 if math.isnan(most) else most)
        if not most <= self.tolerance:
            share = float((off > self.tolerance).double().mean())
            self.problems.append(f"{place}: off by {most:.3g} at most, {share:.1%} of {list(one.shape)}")

    def _file(self, name: str, one: Path, other: Path) -> None:
        if name.endswith((".png", ".webp", ".jpg", ".jpeg")):
            self._value(f"file {name}", _picture(one), _picture(other))
        elif name.endswith((".safetensors", ".latent")):
            self._value(f"file {name}", _tensors(one), _tensors(other))
        elif name.endswith(".svg"):
            self._value(f"file {name}", one.read_text().split(), other.read_text().split())
        elif one.read_bytes() != other.read_bytes():
            self.problems.append(
                f"file {name}: theirs {one.read_bytes()[:80]!r}, ours {other.read_bytes()[:80]!r}"
            )


def _picture(path: Path) -> dict[str, Any]:
    """All frames as pixels, and what the file says about itself."""
    import numpy as np
    import torch
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        frames = [
            {
                "pixels": torch.from_numpy(np.array(frame)),
                "mode": frame.mode,
                "duration": frame.info.get("duration"),
            }
            for frame in ImageSequence.Iterator(image)
        ]
        image.seek(0)
        texts = {str(k): str(v) for k, v in image.info.items() if isinstance(v, (str, int))}
        exif = {str(tag): str(value) for tag, value in image.getexif().items()}
    return {"frames": frames, "texts": texts, "exif": exif, "comf": path.read_bytes().count(b"comf")}


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        return {"tensors": {key: file.get_tensor(key) for key in file.keys()}, "metadata": file.metadata()}  # noqa: SIM118
