"""``comfy_api.v0_0_2``: today's API under the name of its version."""

from .latest import (
    IO,
    UI,
    Caching,
    ComfyAPI_latest,
    ComfyExtension,
    FolderType,
    Input,
    InputImpl,
    Types,
    create_sync_class,
    io,
    ui,
)


class ComfyAPIAdapter_v0_0_2(ComfyAPI_latest):
    VERSION = "0.0.2"
    STABLE = False


ComfyAPI = ComfyAPIAdapter_v0_0_2
ComfyAPISync = create_sync_class(ComfyAPIAdapter_v0_0_2)

__all__ = [
    "IO",
    "UI",
    "Caching",
    "ComfyAPI",
    "ComfyAPISync",
    "ComfyExtension",
    "FolderType",
    "Input",
    "InputImpl",
    "Types",
    "io",
    "ui",
]
