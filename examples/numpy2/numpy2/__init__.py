"""A V1 node pack that needs numpy 2: it draws an image's edges into it, with functions that numpy 1 does not have."""

import numpy as np
import torch


class Numpy2Ink:
    """Darkens the edges of an image, as if they were drawn with ink."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "ink": ("FLOAT", {"default": 1.5, "min": 0.0, "max": 8.0, "step": 0.1}),
            }
        }

    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "report")
    FUNCTION = "draw"
    CATEGORY = "examples"

    def draw(self, image, ink):
        # np.vecdot, np.concat and np.linalg.vector_norm came with numpy 2: in numpy 1 they are AttributeErrors.
        pixels = image.cpu().numpy().astype(np.float64)
        brightness = np.vecdot(pixels, np.array([0.299, 0.587, 0.114]))
        down = np.diff(brightness, axis=1, append=brightness[:, -1:, :])
        right = np.diff(brightness, axis=2, append=brightness[:, :, -1:])
        edges = np.linalg.vector_norm(np.concat([down[..., None], right[..., None]], axis=-1), axis=-1)
        inked = pixels * np.clip(1 - ink * edges, 0, 1)[..., None]
        return torch.from_numpy(inked.astype(np.float32)), f"numpy {np.__version__}"


NODE_CLASS_MAPPINGS = {"Numpy2Ink": Numpy2Ink}
NODE_DISPLAY_NAME_MAPPINGS = {"Numpy2Ink": "Ink (numpy 2)"}
