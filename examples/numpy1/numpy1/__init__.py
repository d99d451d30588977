"""A V1 node pack that needs numpy 1: it evens out an image's histogram, with names that numpy 2 removed."""

import numpy as np
import torch


class Numpy1Equalize:
    """Histogram equalisation of the brightness; colours keep their proportions."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "strength": ("FLOAT", {"default": 0.8, "min": 0.0, "max": 1.0, "step": 0.05}),
            }
        }

    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "report")
    FUNCTION = "equalize"
    CATEGORY = "examples"

    def equalize(self, image, strength):
        frames = [self._one(frame, strength) for frame in image.cpu().numpy()]
        return torch.from_numpy(np.stack(frames).astype(np.float32)), f"numpy {np.__version__}"

    @staticmethod
    def _one(frame, strength):
        # np.float_ and np.cast are gone in numpy 2: there this line raises AttributeError.
        pixels = np.cast[np.float_](frame)
        brightness = pixels @ np.array([0.299, 0.587, 0.114])
        levels = np.clip(brightness * 255 + 0.5, 0, 255).astype(np.int64)
        shares = np.cumsum(np.bincount(levels.ravel(), minlength=256)) / levels.size
        gain = 1 + strength * (shares[levels] / np.maximum(brightness, 1 / 255) - 1)
        return np.clip(pixels * gain[..., None], 0, 1)


NODE_CLASS_MAPPINGS = {"Numpy1Equalize": Numpy1Equalize}
NODE_DISPLAY_NAME_MAPPINGS = {"Numpy1Equalize": "Equalize (numpy 1)"}
