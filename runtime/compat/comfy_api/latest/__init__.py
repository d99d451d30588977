"""``comfy_api.latest``: the newest V3 API: ``io``, ``ui``, ``ComfyExtension``, ``ComfyAPI`` and the value types.

Progress is real, and so are node replacements, which the host applies. Cache providers are noted and without effect:
they would act on the engine, which is the host's and takes no code from a sandbox.
"""

# ruff: noqa: B027 - methods that a pack may override, and need not
from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from ....sdk import registry
from ..._standins import refuse
from ...comfy_execution.progress import get_progress_state
from ...comfy_execution.utils import get_executing_context
from ..internal import ComfyAPIBase
from . import _input, _input_impl, _io, _ui, _util
from ._input import AudioInput, ImageInput, LatentInput, MaskInput, VideoInput
from ._input_impl import VideoFromComponents, VideoFromFile
from ._io import ComfyNode, FolderType, NodeReplace
from ._util import VideoCodec, VideoComponents, VideoContainer

io = _io
ui = _ui
IO = io
UI = ui
comfy_io = io

__all__ = [
    "IO",
    "UI",
    "AudioInput",
    "Caching",
    "ComfyAPI",
    "ComfyAPISync",
    "ComfyAPI_latest",
    "ComfyExtension",
    "FolderType",
    "ImageInput",
    "Input",
    "InputImpl",
    "LatentInput",
    "MaskInput",
    "Types",
    "VideoCodec",
    "VideoComponents",
    "VideoContainer",
    "VideoFromComponents",
    "VideoFromFile",
    "VideoInput",
    "comfy_io",
    "io",
    "ui",
]

_PREVIEW_LIMIT = 512


class ComfyExtension(ABC):
    """What ``comfy_entrypoint`` returns."""

    async def on_load(self) -> None:
        """Called once, before the nodes are asked for."""

    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]:
        """The node classes of this extension."""


class Input:
    Image = _input.ImageInput
    Audio = _input.AudioInput
    Mask = _input.MaskInput
    Latent = _input.LatentInput
    Video = _input.VideoInput
    CurvePoint = _input.CurvePoint
    Curve = _input.CurveInput
    MonotoneCubicCurve = _input.MonotoneCubicCurve
    LinearCurve = _input.LinearCurve
    Range = _input.RangeInput


class InputImpl:
    VideoFromFile = _input_impl.VideoFromFile
    VideoFromComponents = _input_impl.VideoFromComponents


class Types:
    VideoCodec = _util.VideoCodec
    VideoContainer = _util.VideoContainer
    VideoComponents = _util.VideoComponents
    MESH = _util.MESH
    VOXEL = _util.VOXEL
    SPLAT = _util.SPLAT
    File3D = _util.File3D


class Caching:
    """Types of cache providers. They can be declared and registered; none is ever called."""

    @dataclass(frozen=True)
    class CacheContext:
        node_id: str
        class_type: str
        cache_key_hash: str

    @dataclass
    class CacheValue:
        outputs: list[Any]
        ui: dict[str, Any] | None = None

    class CacheProvider(ABC):
        @abstractmethod
        async def on_lookup(self, context: Any) -> Any:
            """Find a result."""

        @abstractmethod
        async def on_store(self, context: Any, value: Any) -> None:
            """Keep a result."""

        def should_cache(self, context: Any, value: Any = None) -> bool:
            del context, value
            return True

        def on_prompt_start(self, prompt_id: str) -> None:
            """A prompt begins."""

        def on_prompt_end(self, prompt_id: str) -> None:
            """A prompt has ended."""


def _picture(image: Any, limit: int | None) -> tuple[str, Any, int | None] | None:
    """A PIL image or an IMAGE tensor (its first picture), in the form that progress takes."""
    if image is None:
        return None
    form = "JPEG"
    if hasattr(image, "save"):
        form = image.format or "JPEG"
    else:
        from ..._nodes.saving import to_pil

        image = to_pil(image[0] if image.ndim == 4 else image)
    return form, image, limit


class _Execution:
    async def set_progress(
        self,
        value: float,
        max_value: float,
        node_id: str | None = None,
        preview_image: Any = None,
        ignore_size_limit: bool = False,
    ) -> None:
        """Say how far a node is; by default the one that is running.

        Raises:
            ValueError: no node is running and none is named.
        """
        if node_id is None:
            running = get_executing_context()
            if running is None:
                raise ValueError("set_progress outside a node call needs a node_id")
            node_id = running.node_id
        picture = _picture(preview_image, None if ignore_size_limit else _PREVIEW_LIMIT)
        get_progress_state().update_progress(str(node_id), value, max_value, picture)


class _NodeReplacement:
    async def register(self, node_replace: NodeReplace) -> None:
        """Say that a node of an old class is now one of a new class: the host rewrites prompts. Call it while the
        extension loads (``on_load``); the same pair twice counts once."""
        registry.add_node_replacement(node_replace.as_dict())


_CACHED_BY_HOST = (
    "would never be asked: results are cached by the host, which hands no pack the results of others; the host's "
    "setting RINGFENCE_CACHE_MODE says how"
)


class _CachingCalls:
    """Results of all packs are cached by the host, which asks no pack about those of others."""

    async def register_provider(self, provider: Any) -> None:
        """Refused: a provider sees and replaces every node's results, and nothing would ever ask this one."""
        del provider
        refuse("ComfyAPI.caching.register_provider", _CACHED_BY_HOST)

    async def unregister_provider(self, provider: Any) -> None:
        """Nothing was registered."""
        del provider


class ComfyAPI_latest(ComfyAPIBase):
    """What a node may ask of the host, as coroutines. One object for all."""

    VERSION = "latest"
    STABLE = False
    _instances: ClassVar[dict[type, Any]] = {}

    Execution = _Execution
    NodeReplacement = _NodeReplacement

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        if cls not in ComfyAPI_latest._instances:
            made = super().__new__(cls)
            made._set_up()
            ComfyAPI_latest._instances[cls] = made
        return ComfyAPI_latest._instances[cls]

    def _set_up(self) -> None:
        self.execution: Any = _Execution()
        self.node_replacement: Any = _NodeReplacement()
        self.caching: Any = _CachingCalls()


ComfyAPI = ComfyAPI_latest


def run_to_end(coroutine: Any) -> Any:
    """Run a coroutine from ordinary code, whether or not a loop runs in this thread."""
    outcome: dict[str, Any] = {}
    around = contextvars.copy_context()

    def work() -> None:
        try:
            outcome["value"] = around.run(asyncio.run, coroutine)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, name="comfy-api-sync", daemon=True)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome.get("value")


class _Blocking:
    """An object whose coroutine methods are called like ordinary ones."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if not inspect.iscoroutinefunction(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            return run_to_end(found(*args, **kwargs))

        return call


class ComfyAPISync:
    """``ComfyAPI`` for ordinary functions."""

    _async_class: Any = ComfyAPI_latest

    def __init__(self) -> None:
        wrapped = self._async_class()
        self.execution = _Blocking(wrapped.execution)
        self.node_replacement = _Blocking(wrapped.node_replacement)
        self.caching = _Blocking(wrapped.caching)


def create_sync_class(async_class: Any, thread_pool_size: int = 10) -> type:
    """``ComfyAPISync`` for another version of the API."""
    del thread_pool_size
    return type(f"{async_class.__name__}Sync", (ComfyAPISync,), {"_async_class": async_class})
