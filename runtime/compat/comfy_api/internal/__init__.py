"""``comfy_api.internal``: the base classes by which V3 is recognised, and small helpers about classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MethodType
from typing import Any


class ComfyAPIBase:
    """What every version of the API object derives from."""

    VERSION = "latest"
    STABLE = False


class _ComfyNodeInternal:
    """Base of all V3 node classes; the worker tests for it."""

    @classmethod
    def GET_NODE_INFO_V1(cls) -> Any:
        raise NotImplementedError

    @classmethod
    def PREPARE_CLASS_CLONE(cls, hidden_inputs: Any) -> Any:
        raise NotImplementedError


class _NodeOutputInternal:
    """Base of what V3 nodes return."""


class classproperty:
    """A property of a class; a subclass may define the name plainly instead."""

    def __init__(self, getter: Callable[[Any], Any]) -> None:
        self.getter = getter
        self.__doc__ = getter.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.getter(type(instance) if owner is None else owner)


def first_real_override(cls: type, name: str, *, base: type | None = None) -> Callable[..., Any] | None:
    """The function ``name`` as a class below ``base`` defines it; None when only the base does.

    ``base`` is the class that names the method first; by default the last one in the class's order that has it.
    """
    if base is None:
        holders = [ancestor for ancestor in cls.__mro__ if name in ancestor.__dict__]
        if not holders:
            return None
        base = holders[-1]
    original = getattr(base, name, None)
    own = getattr(cls, name, None)
    if own is None or getattr(own, "__func__", own) is getattr(original, "__func__", original):
        return None
    return own


def is_class(obj: Any) -> bool:
    return isinstance(obj, type)


def copy_class(cls: type | None) -> type | None:
    """A new class with the same attributes and bases, for changing without touching the original."""
    if cls is None:
        return None
    own = dict(vars(cls))
    for made_anew in ("__dict__", "__weakref__"):
        own.pop(made_anew, None)
    return type(cls)(cls.__name__, cls.__bases__, own)


def make_locked_method_func(type_obj: type, func: str, class_clone: type) -> Callable[..., Any]:
    """The class method ``func``, called on a clone."""
    return MethodType(getattr(type_obj, func).__func__, class_clone)


def shallow_clone_class(cls: type, new_name: str | None = None) -> type:
    """A subclass that is one in name only: what is set on it does not reach the original."""
    return type(cls)(new_name or f"{cls.__name__}Clone", (cls,), {"__module__": cls.__module__})


def lock_class(cls: type) -> type:
    """A subclass whose attributes cannot be set or deleted."""
    locked = type(
        f"Locked{type(cls).__name__}", (type(cls),), {"__setattr__": _refuse_set, "__delattr__": _refuse_set}
    )
    return locked(cls.__name__, (cls,), {"__module__": cls.__module__})


def _refuse_set(cls: type, name: str, *value: Any) -> None:
    if name in ("__abstractmethods__", "_abc_impl") and value:  # abc sets them on every class that it makes
        type.__setattr__(cls, name, *value)
        return
    raise AttributeError(
        f"{cls.__name__}.{name} cannot be changed: node classes are locked while they run; keep state in the module"
    )


def as_pruned_dict(dataclass_obj: Any) -> dict[str, Any]:
    """A dataclass object as a dict without what is None."""
    return prune_dict(dataclasses.asdict(dataclass_obj))


def prune_dict(d: dict[str, Any]) -> dict[str, Any]:
    """The entries that are not None."""
    return {key: value for key, value in d.items() if value is not None}


_versions: list[Any] = []


def register_versions(versions: list[Any]) -> None:
    """Note the API versions on offer."""
    _versions[:] = versions


def get_all_versions() -> list[Any]:
    """The versions that were noted."""
    return list(_versions)


def __getattr__(name: str) -> Any:
    if name == "ComfyAPIWithVersion":
        from .api_registry import ComfyAPIWithVersion

        return ComfyAPIWithVersion
    if name in {"ProxiedSingleton", "SingletonMetaclass"}:
        from . import singleton

        return getattr(singleton, name)
    raise AttributeError(f"module 'comfy_api.internal' has no attribute {name!r} in Ringfence")
