"""Names without behaviour: modules, classes and functions that packs import but that a sandbox cannot offer.

A pack with two hundred nodes imports ``comfy.ldm.modules.attention`` at the top of one file; the other 199 nodes must
still load. So a stand-in can be imported, subclassed, used in annotations and ``isinstance``, read as an enum or a
namespace, and patched. Calling it raises ``NotProvidedError`` with its full name.

Which modules are names only is the table below. A module that is not in it and has no file here does not exist, so
that a pack's ``try: import ... except ImportError`` still takes its own way out.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABCMeta
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from ..aliases import SameModuleLoader
from ..sdk import registry

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # see aliases.py
    Loader = MetaPathFinder = object

MODEL = "needs a model runtime, which Ringfence does not provide inside a sandbox"
SERVER = "belongs to the server process, which is not inside a sandbox"

#: Modules without a file of their own here. "x.*" means x and everything below it.
NAMES_ONLY: dict[str, str] = {
    **dict.fromkeys(
        [
            "comfy.audio_encoders.*", "comfy.background_removal.*", "comfy.checkpoint_pickle", "comfy.cldm.*",
            "comfy.clip_model", "comfy.clip_vision", "comfy.conds", "comfy.context_windows", "comfy.controlnet",
            "comfy.diffusers_convert", "comfy.diffusers_load", "comfy.extra_samplers.*", "comfy.float",
            "comfy.gligen", "comfy.hooks", "comfy.image_encoders.*", "comfy.k_diffusion.*", "comfy.ldm.*",
            "comfy.lora", "comfy.lora_convert", "comfy.memory_management", "comfy.model_base",
            "comfy.model_detection", "comfy.model_sampling", "comfy.nested_tensor", "comfy.ops",
            "comfy.patcher_extension", "comfy.pixel_space_convert", "comfy.quant_ops", "comfy.rmsnorm",
            "comfy.sampler_helpers", "comfy.sdxl_clip", "comfy.supported_models",
            "comfy.supported_models_base", "comfy.t2i_adapter.*", "comfy.taesd.*", "comfy.text_encoders.*",
            "comfy.weight_adapter.*", "comfy_extras.chainner_models.*",
        ],
        MODEL,
    ),
    **dict.fromkeys(
        [
            "api_server.*", "middleware.*", "comfy_config.*", "utils", "utils.extra_config", "utils.install_util",
            "utils.json_util", "utils.mime_types", "app.app_settings",
            "app.custom_node_manager", "app.database.*", "app.frontend_management", "app.logger",
            "app.model_manager", "app.user_manager", "comfy_execution.caching", "comfy_execution.jobs",
            "comfy_api_nodes.*",
        ],
        SERVER,
    ),
}  # fmt: skip

#: Below these, any module whose last part starts like this is names only (ComfyUI adds such files all the time).
NAMES_ONLY_PREFIXES: dict[str, str] = {"comfy_extras.nodes_": MODEL}


class NotProvidedError(NotImplementedError):
    """A pack called something of ComfyUI's that exists in a sandbox by name only."""

    __module__ = "ringfence"  # as shown to users


def refuse(name: str, why: str = MODEL) -> NoReturn:
    """Say that ``name`` cannot be used here.

    Raises:
        NotProvidedError: always.
    """
    raise NotProvidedError(f"{name} {why}")


def reason_for(module: str) -> str | None:
    """Return why a module is names only; None when it is not."""
    if module in NAMES_ONLY:
        return NAMES_ONLY[module]
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        why = NAMES_ONLY.get(".".join(parts[:end]) + ".*")
        if why is not None:
            return why
    for prefix, why in NAMES_ONLY_PREFIXES.items():
        if module.startswith(prefix) and "." not in module[len(prefix) :]:
            return why
    return None


def _is_node_class(name: str) -> bool:
    """Whether a name is that of a node class: ``comfy_extras.nodes_freelunch.FreeU``, not of something in it."""
    parts = name.split(".")
    return len(parts) == 3 and name.startswith(tuple(NAMES_ONLY_PREFIXES)) and parts[2][:1].isupper()


def _made_at_import(name: str) -> bool:
    """Whether a pack that is being imported makes an object of a class: its other nodes must still load."""
    return registry.loading is not None and name.rpartition(".")[2][:1].isupper()


class StandInType(ABCMeta):
    """The type of every stand-in: a class (to subclass), a callable that refuses, and a namespace, at once."""

    def __getattr__(cls, name: str) -> Any:
        own = cls.__dict__.get("_stand_in_for")
        if own is None or name.startswith("_"):
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        child = stand_in(f"{own}.{name}", cls.__dict__["_stand_in_why"])
        setattr(cls, name, child)
        return child

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        own = cls.__dict__.get("_stand_in_for")
        if own is not None:
            if (_is_node_class(own) and not args and not kwargs) or _made_at_import(own):
                return cls  # packs make objects at the top of a file, and use them in a few of their nodes
            refuse(own, cls.__dict__["_stand_in_why"])
        return super().__call__(*args, **kwargs)

    def __iter__(cls) -> Any:
        refuse(cls.__dict__.get("_stand_in_for", cls.__name__), cls.__dict__.get("_stand_in_why", MODEL))

    def __repr__(cls) -> str:
        own = cls.__dict__.get("_stand_in_for")
        return f"<name only: {own}>" if own else super().__repr__()


def stand_in(name: str, why: str = MODEL) -> StandInType:
    """Make the stand-in that is called ``name`` in errors."""

    def refuse_instance(self: Any, *args: Any, **kwargs: Any) -> None:
        del self, args, kwargs
        if not _made_at_import(name):
            refuse(name, why)

    def missing(self: Any, attribute: str) -> Any:
        inherited = getattr(
            super(made, self), "__getattr__", None
        )  # torch's modules find their layers with it
        if inherited is not None:
            return inherited(attribute)
        own = type(self).__name__
        raise AttributeError(f"{own!r} object has no attribute {attribute!r}: its base class {name} {why}")

    module, _, last = name.rpartition(".")
    made = StandInType(
        last,
        (),
        {
            "_stand_in_for": name,
            "_stand_in_why": why,
            "__init__": refuse_instance,
            "__getattr__": missing,
            "__class_getitem__": classmethod(lambda cls, item: cls),
            "__module__": module,
            "__doc__": f"{name} {why}.",
        },
    )
    return made


def is_stand_in(value: Any) -> bool:
    return isinstance(value, StandInType) and "_stand_in_for" in value.__dict__


def names_only(
    module_name: str, names: Sequence[str] | None = None, why: str = MODEL
) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that offers ``names`` (any public name if None) as stand-ins."""
    public = module_name.partition(".compat.")[2] or module_name
    allowed = None if names is None else frozenset(names)

    def __getattr__(name: str) -> Any:
        module = sys.modules[module_name]
        found = None if name.startswith("__") else _real_there(public, name)
        if found is not None:
            setattr(module, name, found)
            return found
        if name == "__all__" and public in _STARRED:
            return _STARRED[public].split()
        if name.startswith("__") or (allowed is not None and name not in allowed):
            raise AttributeError(f"module {public!r} has no attribute {name!r} in Ringfence")
        if (
            allowed is None
            and reason_for(f"{public}.{name}")
            and name.islower()
            and _is_listed(f"{public}.{name}")
        ):
            return importlib.import_module(f"{module_name}.{name}")
        value = stand_in(f"{public}.{name}", why)
        setattr(module, name, value)
        return value

    return __getattr__


def _is_listed(module: str) -> bool:
    return module in NAMES_ONLY or f"{module}.*" in NAMES_ONLY or module in _KNOWN_BRANCHES


#: Names below the subtrees that are modules, so that ``from comfy.ldm.modules import attention`` gives the module.
_KNOWN_BRANCHES = frozenset(
    {
        "comfy.k_diffusion.sampling", "comfy.k_diffusion.utils", "comfy.ldm.modules", "comfy.ldm.modules.attention",
        "comfy.ldm.modules.diffusionmodules", "comfy.ldm.modules.diffusionmodules.model",
        "comfy.ldm.modules.diffusionmodules.openaimodel", "comfy.ldm.modules.diffusionmodules.util",
        "comfy.ldm.flux", "comfy.ldm.flux.layers", "comfy.ldm.flux.math", "comfy.ldm.flux.model",
        "comfy.ldm.common_dit", "comfy.ldm.util", "comfy.ldm.models", "comfy.ldm.models.autoencoder",
        "comfy.ldm.wan", "comfy.ldm.wan.model", "comfy.ldm.lightricks", "comfy.ldm.lightricks.model",
        "comfy.cldm.cldm", "comfy.cldm.mmdit", "comfy.taesd.taesd", "comfy.text_encoders.flux",
        "comfy.text_encoders.sd3_clip", "comfy.t2i_adapter.adapter", "comfy_extras.chainner_models.model_loading",
    }
)  # fmt: skip


#: What ComfyUI's files import, and packs take from them: ``from comfy.samplers import k_diffusion_sampling``.
_IMPORTED_THERE = {
    "np": "numpy", "nn": "torch.nn", "F": "torch.nn.functional", "k_diffusion_sampling": "comfy.k_diffusion.sampling",
    "uni_pc": "comfy.extra_samplers.uni_pc", "deis": "comfy.k_diffusion.deis",
    "sa_solver": "comfy.k_diffusion.sa_solver",
    **{
        name: f"comfy.{name}"
        for name in (
            "clip_vision", "diffusers_convert", "gligen", "latent_formats", "model_base", "model_detection",
            "model_management", "model_patcher", "sd1_clip", "sdxl_clip", "supported_models_base",
        )
    },
    **{
        name: name
        for name in (
            "asyncio", "comfy", "einops", "execution", "folder_paths", "json", "latent_preview", "logging", "math",
            "node_helpers", "nodes", "numpy", "os", "time", "torch", "uuid",
        )
    },
}  # fmt: skip


#: What ``from module import *`` gives, of the modules that packs take so.
_STARRED = {
    "comfy.model_sampling": (
        "CONST COSMOS_RFLOW EDM EPS IMG_TO_IMG IMG_TO_IMG_FLOW ModelSamplingAV ModelSamplingContinuousEDM "
        "ModelSamplingContinuousV ModelSamplingCosmosRFlow ModelSamplingDiscrete ModelSamplingDiscreteEDM "
        "ModelSamplingDiscreteFlow ModelSamplingFlux StableCascadeSampling V_PREDICTION V_PREDICTION_DDPM X0 "
        "flux_time_shift math rescale_zero_terminal_snr_sigmas reshape_sigma time_snr_shift torch"
    ),
}


def _real_there(module: str, name: str) -> Any:
    """The attribute of a module that is otherwise names only; None for one more name."""
    kinds = importlib.import_module(f"{__package__}.comfy._kinds")
    if name in kinds.HOME.get(module, ()):
        return getattr(kinds, name)
    where = _IMPORTED_THERE.get(name)
    if where is None or (reason_for(f"{module}.{name}") and _is_listed(f"{module}.{name}")):
        return None
    try:
        return importlib.import_module(where)
    except ImportError:  # a sandbox whose environment has no torch
        return None


class _NamesOnlyLoader(Loader):
    def __init__(self, why: str) -> None:
        self._why = why

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        del spec
        return None

    def exec_module(self, module: ModuleType) -> None:
        public = module.__name__.partition(".compat.")[2]
        module.__doc__ = f"Names only: {public} {self._why}."
        module.__getattr__ = names_only(module.__name__, why=self._why)  # type: ignore[method-assign]


class NamesOnlyFinder(MetaPathFinder):
    """Finds the modules of the table, under ComfyUI's name and under the compat package's, as one object."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for names of the table, and for no others."""
        del path, target
        inside = fullname.startswith(self.package + ".")
        public = fullname[len(self.package) + 1 :] if inside else fullname
        why = reason_for(public)
        if why is None:
            return None
        loader: Loader = _NamesOnlyLoader(why) if inside else SameModuleLoader(f"{self.package}.{public}")
        return ModuleSpec(fullname, loader, is_package=True)


def install(package: str) -> None:
    """Add the finder behind all others: files always win over the table."""
    if not any(isinstance(finder, NamesOnlyFinder) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.append(NamesOnlyFinder(package))


def submodules(module_name: str) -> Callable[[str], Any]:
    """Return a package's ``__getattr__`` that imports a submodule when it is first used.

    In ComfyUI everything is imported before the first pack is, so ``import comfy`` is enough there.
    """
    public = module_name.partition(".compat.")[2] or module_name

    def __getattr__(name: str) -> Any:
        if not name.startswith("_"):
            try:
                found = importlib.util.find_spec(f"{module_name}.{name}")
            except ModuleNotFoundError:
                found = None
            if found is not None:
                return importlib.import_module(f"{module_name}.{name}")
        raise AttributeError(f"module {public!r} has no attribute {name!r} in Ringfence")

    return __getattr__
