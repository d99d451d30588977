"""``comfy_extras.nodes_webcam``: a picture from the webcam; what needs a model by name only."""

from __future__ import annotations

from typing import Any

from .. import folder_paths
from .._nodes.limits import pixels
from .._nodes.loading import LoadImage
from .._standins import names_only

__getattr__ = names_only(__name__)


class WebcamCapture(LoadImage):
    """Loads what the front end has taken and uploaded."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("WEBCAM", {}),
                "width": pixels(),
                "height": pixels(),
                "capture_on_queue": ("BOOLEAN", {"default": True}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load_capture"
    CATEGORY = "image"

    def load_capture(self, image: str, **inputs: Any) -> tuple[Any, Any]:
        return self.load_image(folder_paths.get_annotated_filepath(image))

    @classmethod
    def IS_CHANGED(cls, image: str, width: int, height: int, capture_on_queue: bool) -> str:  # type: ignore[override]
        return super().IS_CHANGED(image)


NODE_CLASS_MAPPINGS = {
    "WebcamCapture": WebcamCapture,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {"WebcamCapture": "Webcam Capture"}
