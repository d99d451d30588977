"""``comfy_extras.nodes_images``: cropping, turning, batches, animated files."""

from __future__ import annotations

import json
import re
from typing import Any

from ...sdk import events
from .. import folder_paths
from .._nodes.images import scaled
from .._nodes.limits import FLIPS, TURNS, pixels, turns
from .._nodes.saving import NumberedFiles, text_chunks, to_pil
from .._standins import names_only
from ._base import ExtraNode
from ._boxes import BoundingBox, ImageCropV2
from ._tiles import ImageMergeTileList, SplitImageToTileList

__getattr__ = names_only(__name__)


class ImageCrop(ExtraNode):
    """A rectangle of a picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "width": pixels(512, 1),
                "height": pixels(512, 1),
                "x": pixels(),
                "y": pixels(),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "crop"
    CATEGORY = "image/transform"

    def crop(self, image: Any, width: int, height: int, x: int, y: int) -> tuple[Any]:
        left, top = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
        return (image[:, top : top + height, left : left + width, :],)


class RepeatImageBatch(ExtraNode):
    """A batch several times over."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "amount": ("INT", {"default": 1, "min": 1, "max": 4096})}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "repeat"
    CATEGORY = "image/batch"

    def repeat(self, image: Any, amount: int) -> tuple[Any]:
        return (image.repeat(amount, 1, 1, 1),)


class ImageFromBatch(ExtraNode):
    """Some pictures of a batch."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "batch_index": ("INT", {"default": 0, "min": 0, "max": 4095}),
                "length": ("INT", {"default": 1, "min": 1, "max": 4096}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "frombatch"
    CATEGORY = "image/batch"

    def frombatch(self, image: Any, batch_index: int, length: int) -> tuple[Any]:
        start = min(image.shape[0] - 1, batch_index)
        return (image[start : start + min(image.shape[0] - start, length)].clone(),)


class ImageAddNoise(ExtraNode):
    """Adds noise, the same for the same seed."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seed = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True}
        strength = {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}
        return {"required": {"image": ("IMAGE",), "seed": ("INT", seed), "strength": ("FLOAT", strength)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "repeat"
    CATEGORY = "image"

    def repeat(self, image: Any, seed: int, strength: float) -> tuple[Any]:
        from ..comfy.sample import prepare_noise

        noisy = image + strength * prepare_noise(image, seed).to(image.device)
        return (noisy.clamp(0.0, 1.0),)


class ImageRotate(ExtraNode):
    """Turns a picture clockwise."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "rotation": (TURNS,)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "rotate"
    CATEGORY = "image/transform"

    def rotate(self, image: Any, rotation: str) -> tuple[Any]:
        import torch

        return (torch.rot90(image, k=turns(rotation), dims=[2, 1]),)


class ImageFlip(ExtraNode):
    """Mirrors a picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "flip_method": (FLIPS,)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "flip"
    CATEGORY = "image/transform"

    def flip(self, image: Any, flip_method: str) -> tuple[Any]:
        import torch

        return (torch.flip(image, dims=[1 if flip_method.startswith("x") else 2]),)


class ImageScaleToMaxDimension(ExtraNode):
    """Scales so that the longer side has a length."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (["area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"],),
                "largest_size": pixels(512),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    def upscale(self, image: Any, upscale_method: str, largest_size: int) -> tuple[Any]:
        high, wide = image.shape[1], image.shape[2]
        factor = largest_size / max(high, wide)
        return (scaled(image, round(wide * factor), round(high * factor), upscale_method),)


class GetImageSize(ExtraNode):
    """Width, height and number of pictures; shown on the node too."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}, "hidden": {"unique_id": "UNIQUE_ID"}}

    RETURN_TYPES = ("INT", "INT", "INT")
    RETURN_NAMES = ("width", "height", "batch_size")
    FUNCTION = "get_size"
    CATEGORY = "image"
    DESCRIPTION = "How wide and high the pictures are, and how many."

    def get_size(self, image: Any, unique_id: str | None = None) -> tuple[int, int, int]:
        batch, high, wide = image.shape[:3]
        if unique_id:
            events.progress_text(f"width: {wide}, height: {high}\n batch size: {batch}", unique_id)
        return wide, high, batch


_STITCH = {
    "direction": (["right", "down", "left", "up"], {"default": "right"}),
    "match_image_size": ("BOOLEAN", {"default": True}),
    "spacing_width": ("INT", {"default": 0, "min": 0, "max": 1024, "step": 2}),
    "spacing_color": (["white", "black", "red", "green", "blue"], {"default": "white"}),
}
_COLOURS = {"white": (1, 1, 1), "black": (0, 0, 0), "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


class ImageStitch(ExtraNode):
    """Puts two pictures side by side or one above the other."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image1": ("IMAGE",), **_STITCH}, "optional": {"image2": ("IMAGE",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "stitch"
    CATEGORY = "image/transform"

    def stitch(
        self,
        image1: Any,
        direction: str,
        match_image_size: bool,
        spacing_width: int,
        spacing_color: str,
        image2: Any = None,
    ) -> tuple[Any]:
        import torch

        from ..comfy.utils import repeat_to_batch_size

        if image2 is None:
            return (image1,)
        count = max(image1.shape[0], image2.shape[0])
        image1 = torch.cat([image1, image1[-1:].expand(count - image1.shape[0], -1, -1, -1)])
        image2 = torch.cat([image2, image2[-1:].expand(count - image2.shape[0], -1, -1, -1)])
        across = direction in ("left", "right")
        if match_image_size:
            high, wide = image1.shape[1:3]
            ratio = image2.shape[2] / image2.shape[1]
            size = (int(high * ratio), high) if across else (wide, int(wide / ratio))
            image2 = scaled(image2, size[0], size[1], "lanczos")
        side = 1 if across else 2  # the side that both must share
        length = max(image1.shape[side], image2.shape[side])
        image1, image2 = (_centred(image, side, length) for image in (image1, image2))
        channels = max(image1.shape[-1], image2.shape[-1])
        image1, image2 = (
            torch.nn.functional.pad(image, (0, channels - image.shape[-1]), value=1.0)
            for image in (image1, image2)
        )
        parts = [image2, image1] if direction in ("left", "up") else [image1, image2]
        if spacing_width > 0:
            spacing_width += spacing_width % 2
            shape = list(image1.shape)
            shape[2 if across else 1] = spacing_width
            gap = torch.ones(shape, dtype=image1.dtype)
            for channel, value in enumerate(_COLOURS[spacing_color]):
                if channel < shape[-1]:
                    gap[..., channel] = value
            parts.insert(1, repeat_to_batch_size(gap, count))
        return (torch.cat(parts, dim=2 if across else 1),)


def _centred(image: Any, side: int, length: int) -> Any:
    """Add black on both ends of a side until it has the length."""
    import torch

    missing = length - image.shape[side]
    before = missing // 2
    padding = (0, 0, before, missing - before) if side == 2 else (0, 0, 0, 0, before, missing - before)
    return torch.nn.functional.pad(image, padding) if missing else image


class ResizeAndPadImage(ExtraNode):
    """Scales to fit into a size and fills the rest."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "target_width": pixels(512, 1),
                "target_height": pixels(512, 1),
                "padding_color": (["white", "black"],),
                "interpolation": (["area", "bicubic", "nearest-exact", "bilinear", "lanczos"],),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "resize_and_pad"
    CATEGORY = "image/transform"

    def resize_and_pad(
        self, image: Any, target_width: int, target_height: int, padding_color: str, interpolation: str
    ) -> tuple[Any]:
        import torch

        batch, high, wide, channels = image.shape
        factor = min(target_width / wide, target_height / high)
        new_wide, new_high = int(wide * factor), int(high * factor)
        small = scaled(image, new_wide, new_high, interpolation)
        fill = 0.0 if padding_color == "black" else 1.0
        padded = torch.full((batch, target_height, target_width, channels), fill, dtype=image.dtype)
        top, left = (target_height - small.shape[1]) // 2, (target_width - small.shape[2]) // 2
        padded[:, top : top + small.shape[1], left : left + small.shape[2]] = small
        return (padded,)


def webp_exif(first: Any, prompt: Any, extra_pnginfo: Any) -> Any:
    """The workflow in the EXIF tags where ComfyUI's front end looks for it."""
    exif = first.getexif()
    tag = 0x010F
    for key, value in text_chunks(prompt, extra_pnginfo).items():
        if key == "prompt" and prompt is not None:
            exif[0x0110] = f"prompt:{value}"
        else:
            exif[tag] = f"{key}:{value}"
            tag -= 1
    return exif


def png_animation_info(prompt: Any, extra_pnginfo: Any) -> Any:
    """The workflow in ``comf`` chunks after the picture data: text chunks there would be lost."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text_chunks(prompt, extra_pnginfo).items():
        data = key.encode("latin-1", "replace") + b"\0" + value.encode("latin-1", "backslashreplace")
        info.add(b"comf", data, after_idat=True)
    return info


def save_animation(pictures: list[Any], path: str, fps: float, **options: Any) -> None:
    """Write PIL images to one file that shows them one after the other."""
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=int(1000.0 / fps), **options)


class SaveAnimatedWEBP:
    """Saves a batch as one animated WebP file."""

    methods = {"default": 4, "fastest": 0, "slowest": 6}

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_output_directory()
        self.type = "output"
        self.prefix_append = ""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE",),
                "filename_prefix": ("STRING", {"default": "ComfyUI"}),
                "fps": ("FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}),
                "lossless": ("BOOLEAN", {"default": True}),
                "quality": ("INT", {"default": 80, "min": 0, "max": 100}),
                "method": (list(cls.methods),),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES: tuple[Any, ...] = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "image/animation"

    def save_images(
        self,
        images: Any,
        fps: float,
        filename_prefix: str,
        lossless: bool,
        quality: int,
        method: str,
        num_frames: int = 0,
        prompt: Any = None,
        extra_pnginfo: Any = None,
    ) -> dict[str, Any]:
        """Write the batch to one file, or to one for every ``num_frames`` pictures."""
        files = NumberedFiles(filename_prefix + self.prefix_append, self.output_dir, self.type, images)
        pictures = [to_pil(image) for image in images]
        look = {"lossless": lossless, "quality": quality, "method": self.methods[method]}
        look["exif"] = webp_exif(pictures[0], prompt, extra_pnginfo)
        count = num_frames or len(pictures)
        for start in range(0, len(pictures), count):
            save_animation(pictures[start : start + count], files.next(".webp"), fps, **look)
        return {"ui": {"images": files.saved, "animated": (count != 1,)}}


class SaveAnimatedPNG:
    """Saves a batch as one animated PNG file."""

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_output_directory()
        self.type = "output"
        self.prefix_append = ""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE",),
                "filename_prefix": ("STRING", {"default": "ComfyUI"}),
                "fps": ("FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}),
                "compress_level": ("INT", {"default": 4, "min": 0, "max": 9}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES: tuple[Any, ...] = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "image/animation"

    def save_images(
        self,
        images: Any,
        fps: float,
        compress_level: int,
        filename_prefix: str = "ComfyUI",
        prompt: Any = None,
        extra_pnginfo: Any = None,
    ) -> dict[str, Any]:
        files = NumberedFiles(filename_prefix + self.prefix_append, self.output_dir, self.type, images)
        chunks = png_animation_info(prompt, extra_pnginfo)
        pictures = [to_pil(image) for image in images]
        save_animation(pictures, files.next(".png"), fps, pnginfo=chunks, compress_level=compress_level)
        return {"ui": {"images": files.saved, "animated": (True,)}}


def _with_metadata(document: str, known: dict[str, Any]) -> str:
    # "]]>" would end the CDATA section early.
    data = json.dumps(known, indent=2).replace("]]>", "]]]]><![CDATA[>")
    element = f"\n<metadata>\n<![CDATA[\n{data}\n]]>\n</metadata>\n"
    return re.sub(r"<svg[^>]*>", lambda tag: tag.group() + element, document)


class SaveSVGNode(ExtraNode):
    """Saves SVG texts, with the workflow in a ``metadata`` element after the opening tag."""

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_output_directory()
        self.type = "output"
        self.prefix_append = ""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"svg": ("SVG",), "filename_prefix": ("STRING", {"default": "svg/ComfyUI"})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES = ()
    FUNCTION = "save_svg"
    CATEGORY = "image/save"
    OUTPUT_NODE = True

    def save_svg(
        self, svg: Any, filename_prefix: str = "svg/ComfyUI", prompt: Any = None, extra_pnginfo: Any = None
    ) -> dict[str, Any]:
        """Write each document to ``<prefix>_<number>_.svg``."""
        known = ({} if prompt is None else {"prompt": prompt}) | (extra_pnginfo or {})
        files = NumberedFiles(filename_prefix + self.prefix_append, self.output_dir, self.type)
        for number, document in enumerate(svg.data):
            document.seek(0)
            text = document.read().decode("utf-8")
            if known:
                text = _with_metadata(text, known)
            with open(files.next(".svg", number), "wb") as file:
                file.write(text.encode("utf-8"))
        return {"ui": {"images": files.saved}}


NODE_CLASS_MAPPINGS = {
    "ImageCrop": ImageCrop,
    "RepeatImageBatch": RepeatImageBatch,
    "ImageFromBatch": ImageFromBatch,
    "ImageAddNoise": ImageAddNoise,
    "SaveAnimatedWEBP": SaveAnimatedWEBP,
    "SaveAnimatedPNG": SaveAnimatedPNG,
    "ImageStitch": ImageStitch,
    "ResizeAndPadImage": ResizeAndPadImage,
    "GetImageSize": GetImageSize,
    "ImageRotate": ImageRotate,
    "ImageFlip": ImageFlip,
    "ImageScaleToMaxDimension": ImageScaleToMaxDimension,
    "SplitImageToTileList": SplitImageToTileList,
    "ImageMergeTileList": ImageMergeTileList,
    "SaveSVGNode": SaveSVGNode,
    "PrimitiveBoundingBox": BoundingBox,
    "ImageCropV2": ImageCropV2,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ImageCrop": "Image Crop",
    "ImageStitch": "Image Stitch",
    "GetImageSize": "Get Image Size",
}
NODE_DISPLAY_NAME_MAPPINGS |= {
    "SplitImageToTileList": "Split Image into List of Tiles",
    "ImageMergeTileList": "Merge List of Tiles to Image",
    "PrimitiveBoundingBox": "Bounding Box",
    "ImageCropV2": "Image Crop",
}
