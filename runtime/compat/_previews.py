"""Turns a preview picture of a pack into the bytes that travel. Used by progress bars, progress registry and API."""

from __future__ import annotations

import io
from typing import Any


def encode(form: str, image: Any, max_size: int | None) -> tuple[str, bytes]:
    """Encode a PIL image as JPEG or PNG, made no larger than ``max_size`` on its longer side."""
    from PIL import Image

    if max_size is not None and max(image.size) > max_size:
        image = image.copy()
        image.thumbnail((max_size, max_size), Image.Resampling.BILINEAR)
    form = "PNG" if str(form).upper() == "PNG" else "JPEG"
    if form == "JPEG" and image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format=form, **({"quality": 95} if form == "JPEG" else {"compress_level": 1}))
    return form, buffer.getvalue()


def from_tuple(preview: Any) -> tuple[str, bytes] | None:
    """Encode what a progress bar is given: ``(format, PIL image, max size or None)``, or already encoded bytes."""
    if preview is None:
        return None
    form, image, *rest = preview
    if isinstance(image, (bytes, bytearray)):
        return str(form), bytes(image)
    return encode(form, image, rest[0] if rest else None)
