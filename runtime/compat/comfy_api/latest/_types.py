"""The types that V3 inputs and outputs have: ``io.Int``, ``io.Image``, ``io.Combo`` and the rest.

Each type is a class with ``io_type``, and nested ``Input`` and ``Output``. An input serialises as its type string and
a dict of options that holds only what was given.
"""

# ruff: noqa: UP042 - packs rely on how (str, Enum) prints
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from ..internal import copy_class, prune_dict


# -- small vocabularies --------------------------------------------------------------------------------------------
class FolderType(str, Enum):
    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class NumberDisplay(str, Enum):
    number = "number"
    slider = "slider"
    gradient_slider = "gradientslider"


class ControlAfterGenerate(str, Enum):
    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


class RemoteOptions:
    """Where the browser gets the options of a combo from."""

    def __init__(
        self,
        route: str,
        refresh_button: bool,
        control_after_refresh: str = "first",
        timeout: int | None = None,
        max_retries: int | None = None,
        refresh: int | None = None,
    ) -> None:
        self.route = route
        self.refresh_button = refresh_button
        self.control_after_refresh = control_after_refresh
        self.timeout = timeout
        self.max_retries = max_retries
        self.refresh = refresh

    def as_dict(self) -> dict[str, Any]:
        return prune_dict(dict(vars(self)))


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _shown(declared: Any, *names: str, **renamed: str) -> dict[str, Any]:
    """The options of a declaration that were given; ``renamed``: the option's name for clients -> the attribute."""
    attributes = {**{name: name for name in names}, **renamed}
    return prune_dict({option: _plain(getattr(declared, name)) for option, name in attributes.items()})


# -- bases ---------------------------------------------------------------------------------------------------------
class _IO_V3:
    """What inputs and outputs share: they belong to a type."""

    Parent: Any = None

    @property
    def io_type(self) -> str:
        return str(self.Parent.io_type)

    @property
    def Type(self) -> Any:
        return self.Parent.Type

    def get_io_type(self) -> str:
        return self.io_type

    def validate(self) -> None:
        """Raise ``ValueError`` when the declaration makes no sense."""


class Input(_IO_V3):
    """A socket. ``optional`` decides the section; the rest are options for the browser or the engine."""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        extra_dict: dict[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
    ) -> None:
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.lazy = lazy
        self.extra_dict = extra_dict if extra_dict is not None else {}
        self.rawLink = raw_link
        self.advanced = advanced

    def as_dict(self) -> dict[str, Any]:
        general = _shown(self, "display_name", "tooltip", "lazy", "rawLink", "advanced")
        return general | prune_dict(self.extra_dict)

    def get_all(self) -> list[Input]:
        """This input and those inside it."""
        return [self]


class WidgetInput(Input):
    """An input that the browser shows a widget for."""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: Any = None,
        socketless: bool | None = None,
        widget_type: str | None = None,
        force_input: bool | None = None,
        extra_dict: dict[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
    ) -> None:
        super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
        self.default = default
        self.socketless = socketless
        self.widget_type = widget_type
        self.force_input = force_input

    def as_dict(self) -> dict[str, Any]:
        widget = _shown(self, "default", "socketless", widgetType="widget_type", forceInput="force_input")
        return super().as_dict() | widget

    def get_io_type(self) -> str:
        return self.widget_type if self.widget_type is not None else super().get_io_type()


class Output(_IO_V3):
    """A value that a node gives."""

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        self.id = id
        self.display_name = display_name or id
        self.tooltip = tooltip
        self.is_output_list = is_output_list

    def as_dict(self) -> dict[str, Any]:
        listed = {"is_output_list": True} if self.is_output_list else {}
        return _shown(self, "display_name", "tooltip") | listed


class _ComfyType:
    Type: Any = Any
    io_type: str = ""


class ComfyTypeI(_ComfyType):
    """A type that exists as an input only."""

    class Input(Input):
        pass


class ComfyTypeIO(ComfyTypeI):
    """A type with inputs and outputs."""

    class Output(Output):
        pass


def comfytype(io_type: str, **attributes: Any) -> Callable[[type], Any]:
    """Decorator: make a class (bare, or of ``ComfyTypeIO``) the type called ``io_type``."""

    def decorate(cls: type) -> Any:
        # A bare class gets the general input and output; an inherited one gets a copy that knows its own type.
        members: dict[str, Any] = {"io_type": io_type, **attributes}
        bare = not issubclass(cls, _ComfyType)
        for name, general in (("Input", Input), ("Output", Output)):
            own = cls.__dict__.get(name)
            if inspect.isclass(own):
                continue
            inherited = getattr(cls, name, None)
            if inspect.isclass(inherited):
                members[name] = copy_class(inherited)
            elif bare:
                members[name] = type(name, (general,), {})
        for name, value in members.items():
            setattr(cls, name, value)
        if not hasattr(cls, "Type"):
            cls.Type = Any  # type: ignore[attr-defined]
        for name in ("Input", "Output"):
            nested = cls.__dict__.get(name)
            if inspect.isclass(nested):
                nested.Parent = cls  # type: ignore[attr-defined]
        return cls

    return decorate


def _nested(io_type: str, value_type: Any = Any, input_base: type = Input, **members: Any) -> Any:
    """A type; ``members`` are the names of its values' forms, which packs write into annotations."""
    made = type(io_type, (ComfyTypeIO,), {"Type": value_type, "__module__": __name__, **members})
    if input_base is not Input:
        made.Input = type("Input", (input_base,), {})  # type: ignore[attr-defined]
    return comfytype(io_type)(made)


def Custom(io_type: str) -> Any:
    """A type of the pack's own, by name."""
    return _nested(io_type)


# -- types with a widget -------------------------------------------------------------------------------------------
@comfytype("BOOLEAN")
class Boolean(ComfyTypeIO):
    Type = bool

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: bool | None = None,
            label_on: str | None = None,
            label_off: str | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, None, force_input, extra_dict, raw_link,
                advanced,
            )  # fmt: skip
            self.label_on = label_on
            self.label_off = label_off

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | _shown(self, "label_on", "label_off")


@comfytype("INT")
class Int(ComfyTypeIO):
    Type = int

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: int | None = None,
            min: int | None = None,
            max: int | None = None,
            step: int | None = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            display_mode: NumberDisplay | str | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, None, force_input, extra_dict, raw_link,
                advanced,
            )  # fmt: skip
            self.min = min
            self.max = max
            self.step = step
            self.control_after_generate = control_after_generate
            self.display_mode = display_mode

        def as_dict(self) -> dict[str, Any]:
            number = _shown(self, "min", "max", "step", "control_after_generate", display="display_mode")
            return super().as_dict() | number


@comfytype("FLOAT")
class Float(ComfyTypeIO):
    Type = float

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: float | None = None,
            min: float | None = None,
            max: float | None = None,
            step: float | None = None,
            round: float | None = None,
            display_mode: NumberDisplay | str | None = None,
            gradient_stops: list[Any] | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, None, force_input, extra_dict, raw_link,
                advanced,
            )  # fmt: skip
            self.min = min
            self.max = max
            self.step = step
            self.round = round
            self.display_mode = display_mode
            self.gradient_stops = gradient_stops

        def as_dict(self) -> dict[str, Any]:
            number = _shown(self, "min", "max", "step", "round", "gradient_stops", display="display_mode")
            return super().as_dict() | number


@comfytype("STRING")
class String(ComfyTypeIO):
    Type = str

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            multiline: bool = False,
            placeholder: str | None = None,
            default: str | None = None,
            dynamic_prompts: bool | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, None, force_input, extra_dict, raw_link,
                advanced,
            )  # fmt: skip
            self.multiline = multiline
            self.placeholder = placeholder
            self.dynamic_prompts = dynamic_prompts

        def as_dict(self) -> dict[str, Any]:
            text = _shown(self, "multiline", "placeholder", dynamicPrompts="dynamic_prompts")
            return super().as_dict() | text


def _options(options: Any) -> list[Any] | None:
    """A list of choices; of an Enum class, its values."""
    if isinstance(options, type) and issubclass(options, Enum):
        return [member.value for member in options]
    return None if options is None else [_plain(option) for option in options]


@comfytype("COMBO")
class Combo(ComfyTypeIO):
    Type = str

    class Input(WidgetInput):
        """A choice from a list."""

        def __init__(
            self,
            id: str,
            options: Iterable[Any] | type[Enum] | None = None,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: Any = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            upload: UploadType | None = None,
            image_folder: FolderType | None = None,
            remote: RemoteOptions | None = None,
            socketless: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, _plain(default), socketless, None, None, extra_dict,
                raw_link, advanced,
            )  # fmt: skip
            self.multiselect = False
            self.options = _options(options)
            self.control_after_generate = control_after_generate
            self.upload = upload
            self.image_folder = image_folder
            self.remote = remote

        def as_dict(self) -> dict[str, Any]:
            given: dict[str, Any] = {
                "multiselect": self.multiselect,
                "options": self.options,
                "control_after_generate": _plain(self.control_after_generate),
                "image_folder": _plain(self.image_folder),
                "remote": self.remote.as_dict() if self.remote is not None else None,
            }
            if self.upload is not None:
                given[str(_plain(self.upload))] = True
            return super().as_dict() | prune_dict(given)

    class Output(Output):
        def __init__(
            self,
            id: str | None = None,
            display_name: str | None = None,
            options: Iterable[Any] | type[Enum] | None = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
        ) -> None:
            super().__init__(id, display_name, tooltip, is_output_list)
            self.options = _options(options) or []


@comfytype("COMBO")
class MultiCombo(ComfyTypeI):
    """Several choices from a list."""

    Type = list

    class Input(Combo.Input):
        def __init__(
            self,
            id: str,
            options: Iterable[Any] | type[Enum],
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: list[Any] | None = None,
            placeholder: str | None = None,
            chip: bool | None = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            socketless: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, options, display_name, optional, tooltip, lazy, default, control_after_generate,
                socketless=socketless, extra_dict=extra_dict, raw_link=raw_link, advanced=advanced,
            )  # fmt: skip
            self.multiselect = True
            self.placeholder = placeholder
            self.chip = chip

        def as_dict(self) -> dict[str, Any]:
            shown = prune_dict({"placeholder": self.placeholder, "chip": self.chip})
            return super().as_dict() | {"multi_select": shown}


def _socketless(io_type: str, default: Any, *, value_type: Any = dict, extra: tuple[str, ...] = ()) -> Any:
    """A type whose widget has no socket unless asked for; ``extra`` are further parameters, serialised by name."""

    class _Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            default: Any = default,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
            **given: Any,
        ) -> None:
            unknown = set(given) - set(extra)
            if unknown:
                raise TypeError(f"{io_type} input {id!r}: no such parameter: {', '.join(sorted(unknown))}")
            super().__init__(
                id, display_name, optional, tooltip, None, default, socketless, None, force_input, extra_dict, raw_link,
                advanced,
            )  # fmt: skip
            self.extra = given
            for name in extra:
                setattr(self, name, given.get(name))

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {
                name: _plain(value) for name, value in self.extra.items() if value is not None
            }

    made = type(io_type, (ComfyTypeIO,), {"Type": value_type, "__module__": __name__, "Input": _Input})
    return comfytype(io_type)(made)


Color = _socketless("COLOR", "#ffffff", value_type=str)
BoundingBox = _socketless("BOUNDING_BOX", {"x": 0, "y": 0, "width": 512, "height": 512}, extra=("component",))
Range = _socketless(
    "RANGE",
    {"min": 0.0, "max": 1.0},
    extra=("display", "gradient_stops", "show_midpoint", "midpoint_scale", "value_min", "value_max"),
)
ImageCompare = _socketless("IMAGECOMPARE", None)
Webcam = _nested("WEBCAM", str, WidgetInput)


@comfytype("CURVE")
class Curve(ComfyTypeIO):
    Type = dict

    class Input(WidgetInput):
        """A curve through points; the default is the straight line."""

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            default: list[Any] | None = None,
            advanced: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
        ) -> None:
            points = [(0.0, 0.0), (1.0, 1.0)] if default is None else default
            value = {"points": [list(point) for point in points], "interpolation": "monotone_cubic"}
            super().__init__(
                id, display_name, optional, tooltip, None, value, socketless, extra_dict=extra_dict, raw_link=raw_link,
                advanced=advanced,
            )  # fmt: skip


# -- types with a socket only --------------------------------------------------------------------------------------
Image = _nested("IMAGE")
Mask = _nested("MASK")
Latent = _nested("LATENT", dict, LatentDict=dict)
Conditioning = _nested("CONDITIONING", list, PooledDict=dict, CondList=list)
Audio = _nested("AUDIO", dict, AudioDict=dict)
Video = _nested("VIDEO")
AnyType = _nested("*")
WanCameraEmbedding = _nested("WAN_CAMERA_EMBEDDING")
Sampler = _nested("SAMPLER")
Sigmas = _nested("SIGMAS")
Noise = _nested("NOISE")
Guider = _nested("GUIDER")
Clip = _nested("CLIP")
ControlNet = _nested("CONTROL_NET")
Vae = _nested("VAE")
Model = _nested("MODEL")
ModelPatch = _nested("MODEL_PATCH")
MODEL_PATCH = ModelPatch
ClipVision = _nested("CLIP_VISION")
ClipVisionOutput = _nested("CLIP_VISION_OUTPUT")
StyleModel = _nested("STYLE_MODEL")
Gligen = _nested("GLIGEN")
UpscaleModel = _nested("UPSCALE_MODEL")
LatentUpscaleModel = _nested("LATENT_UPSCALE_MODEL")
AudioEncoder = _nested("AUDIO_ENCODER")
AudioEncoderOutput = _nested("AUDIO_ENCODER_OUTPUT")
BackgroundRemoval = _nested("BACKGROUND_REMOVAL")
SVG = _nested("SVG")
LoraModel = _nested("LORA_MODEL")
LossMap = _nested("LOSS_MAP", dict, LossMapDict=dict)
Voxel = _nested("VOXEL")
Mesh = _nested("MESH")
Splat = _nested("SPLAT")
Hooks = _nested("HOOKS")
HookKeyframes = _nested("HOOK_KEYFRAMES")
TimestepsRange = _nested("TIMESTEPS_RANGE")
LatentOperation = _nested("LATENT_OPERATION")
FlowControl = _nested("FLOW_CONTROL")
Accumulation = _nested("ACCUMULATION", dict, AccumulationDict=dict)
Load3DCamera = _nested("LOAD3D_CAMERA", dict, CameraInfo=dict)
Load3D = _nested("LOAD_3D", dict, Model3DDict=dict)
Load3DAnimation = _nested("LOAD_3D_ANIMATION")
Load3DModelInfo = _nested("LOAD3D_MODEL_INFO")
File3DAny = _nested("FILE_3D")
File3DGLB = _nested("FILE_3D_GLB")
File3DGLTF = _nested("FILE_3D_GLTF")
File3DFBX = _nested("FILE_3D_FBX")
File3DOBJ = _nested("FILE_3D_OBJ")
File3DSTL = _nested("FILE_3D_STL")
File3DUSDZ = _nested("FILE_3D_USDZ")
File3DPLY = _nested("FILE_3D_PLY")
File3DSPLAT = _nested("FILE_3D_SPLAT")
File3DSPZ = _nested("FILE_3D_SPZ")
File3DKSPLAT = _nested("FILE_3D_KSPLAT")
File3DSplatAny = _nested("FILE_3D_SPLAT_ANY")
File3DPointCloudAny = _nested("FILE_3D_POINT_CLOUD_ANY")
Photomaker = _nested("PHOTOMAKER")
Point = _nested("POINT")
FaceAnalysis = _nested("FACE_ANALYSIS")
BBOX = _nested("BBOX")
SEGS = _nested("SEGS")
Tracks = _nested("TRACKS", dict)
Histogram = _nested("HISTOGRAM", list)


# -- several types at once -----------------------------------------------------------------------------------------
@comfytype("COMFY_MULTITYPED_V3")
class MultiType(ComfyTypeIO):
    """An input that takes any of several types, with the widget of one of them if wanted."""

    class Input(Input):
        def __init__(
            self,
            id: str | Input,
            types: list[Any],
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            self.input_override: Any = None
            if not isinstance(id, str):
                self.input_override = id
                display_name = id.display_name if display_name is None else display_name
                tooltip = id.tooltip if tooltip is None else tooltip
                lazy = id.lazy if lazy is None else lazy
                optional = optional or id.optional
                id = id.id
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
            self.io_types = types

        def get_io_type(self) -> str:
            names = [] if self.input_override is None else [self.input_override.get_io_type()]
            for kind in self.io_types:
                names += (kind if isinstance(kind, str) else kind.io_type).split(",")
            return ",".join(dict.fromkeys(names))

        def as_dict(self) -> dict[str, Any]:
            if self.input_override is None:
                return super().as_dict()
            own = (
                {"widgetType": self.input_override.get_io_type()}
                if isinstance(self.input_override, WidgetInput)
                else {}
            )
            return self.input_override.as_dict() | super().as_dict() | own
