"""Describes node classes as plain JSON: what ``/object_info`` shows, and what the engine must know to plan.

Everything is read from the live class each time, through the pack's own objects: declarations may be methods with
file lists in them, dict subclasses that claim to hold every name, types that compare equal to anything.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import dynamic, plain

SECTIONS = ("required", "optional", "hidden")
#: Hidden inputs that a class may ask for by value; the rest of a hidden section is the pack's own business.
TOKENS = frozenset(
    {
        "PROMPT",
        "DYNPROMPT",
        "EXTRA_PNGINFO",
        "UNIQUE_ID",
        "AUTH_TOKEN_COMFY_ORG",
        "API_KEY_COMFY_ORG",
        "COMFY_USAGE_SOURCE",
    }
)
#: The host takes no longer names, of nodes, inputs or anything else.
MAX_NAME = 256
_INTERNAL = f"{__package__}.compat.comfy_api.internal"
_PROBE = "RINGFENCE_PROBE"
_EXPANSION = re.compile(rb"""["']expand["']|\bGraphBuilder\b""")


def describe(class_type: str, cls: Any, display_name: str | None) -> dict[str, Any]:
    """Return the node description of docs/protocol.md.

    Raises:
        Exception: whatever the class's own code raises; the caller leaves that node out.
    """
    if not 0 < len(class_type) <= MAX_NAME:
        raise ValueError(f"a node name must have 1 to {MAX_NAME} characters")
    v3 = is_v3(cls)
    sections = input_types(cls)
    info = _v3_info(class_type, cls) if v3 else _v1_info(class_type, cls, sections, display_name)
    return {
        "class_type": class_type,
        "info": info,
        "api": "v3" if v3 else "v1",
        "hidden": hidden_tokens(sections),
        "any_inputs": [
            plain.clean(name)
            for name, declaration in _declarations(sections)
            if _equals_anything(_declared_type(declaration), on_left=False)
        ],
        "any_outputs": [
            slot for slot, kind in enumerate(return_types(cls)) if _equals_anything(kind, on_left=True)
        ],
        "accepts_any_name": accepts_any_name(cls, sections),
        "raw_link": _with_option(sections, "rawLink"),
        "lazy": _with_option(sections, "lazy"),
        "output_node": getattr(cls, "OUTPUT_NODE", False) is True,
        "not_idempotent": bool(getattr(cls, "NOT_IDEMPOTENT", False)),
        "is_async": is_async(cls),
        "has_lazy": lazy_function_name(cls) is not None,
        "has_fingerprint": fingerprint_name(cls) is not None,
        "validator": _validator(cls),
        "dynamic": v3 and dynamic.has_dynamic(sections),
        "enable_expand": bool(getattr(cls.GET_SCHEMA(), "enable_expand", False)) if v3 else _may_expand(cls),
    }


def _may_expand(cls: Any) -> bool:
    """Whether a V1 class could return a graph: no declaration says so, but code that never names one cannot."""
    module = str(getattr(cls, "__module__", ""))
    # Of our own nodes the one file, of a pack all that it has imported.
    return _names_expansion(module if module.startswith(f"{__package__}.") else module.partition(".")[0])


@functools.cache
def _names_expansion(root: str) -> bool:
    """Whether the code of a pack's modules, as far as it can be read, mentions expansion."""
    read = False
    for name, module in list(sys.modules.items()):
        if name == root or name.startswith(f"{root}."):
            try:
                text = Path(str(module.__file__)).read_bytes()
            except (OSError, AttributeError, ValueError):
                continue
            read = True
            if _EXPANSION.search(text):
                return True
    return not read


def is_v3(cls: Any) -> bool:
    """True for classes of the V3 API: those that derive from ``comfy_api.internal._ComfyNodeInternal``."""
    internal = sys.modules.get(_INTERNAL)
    if internal is None:
        return False
    base = getattr(internal, "_ComfyNodeInternal", None)
    try:
        return base is not None and isinstance(cls, type) and issubclass(cls, base)
    except TypeError:  # a metaclass with a mind of its own
        return False


def input_types(cls: Any) -> dict[str, Any]:
    """Call INPUT_TYPES; the sections are the class's own objects, not copies."""
    sections = cls.INPUT_TYPES()
    if type(sections) is not dict and not isinstance(sections, Mapping):
        raise TypeError(f"INPUT_TYPES returned {type(sections).__name__}; it must return a dict")
    return {name: sections[name] for name in sections if sections[name] is not None}


def return_types(cls: Any) -> tuple[Any, ...]:
    kinds = getattr(cls, "RETURN_TYPES", ())
    return tuple(kinds) if isinstance(kinds, (tuple, list)) else (kinds,)


def output_is_list(cls: Any) -> tuple[bool, ...] | None:
    """The class's OUTPUT_IS_LIST, or None when it declares none."""
    flags = getattr(cls, "OUTPUT_IS_LIST", None)
    return None if flags is None else tuple(bool(flag) for flag in flags)


def hidden_tokens(sections: Mapping[str, Any]) -> dict[str, str]:
    """Map the names of hidden inputs to the tokens they ask for."""
    asked: dict[str, str] = {}
    for name, value in dict(sections.get("hidden") or {}).items():
        token = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
        token = getattr(token, "value", token)
        if isinstance(token, str) and str.__str__(token) in TOKENS and 0 < len(str(name)) <= MAX_NAME:
            asked[plain.clean(str(name))] = str.__str__(token)
    return asked


def declares(sections: Mapping[str, Any], name: str) -> bool:
    """True when the class says it takes ``name``: asked of the pack's own objects, which may claim every name."""
    return any(name in section for key in SECTIONS if (section := sections.get(key)) is not None)


def accepts_any_name(cls: Any, sections: Mapping[str, Any]) -> bool:
    """True when a section claims to hold a name that nobody declared, or V3's ``accept_all_inputs`` is set."""
    if getattr(cls, "ACCEPT_ALL_INPUTS", False) is True:
        return True
    try:
        return any(
            _PROBE in section
            for key in ("optional", "required")
            if type(section := sections.get(key, {})) is not dict
        )
    except Exception:  # noqa: BLE001 - a partial claim may raise for a stranger's name
        return False


def is_async(cls: Any) -> bool:
    """True when the node's function is a coroutine function."""
    return inspect.iscoroutinefunction(getattr(cls, getattr(cls, "FUNCTION", ""), None))


def overrides(cls: Any, name: str) -> bool:
    """True when a V3 class, or a mixin of it, defines ``name`` itself instead of inheriting the API's default."""
    base = getattr(sys.modules.get(_INTERNAL), "_ComfyNodeInternal", object)
    own, default = getattr(cls, name, None), None
    for ancestor in cls.__mro__:
        # The API's own classes sit between the node and the internal base.
        if issubclass(ancestor, base) and str(ancestor.__module__).startswith(
            f"{__package__}.compat.comfy_api."
        ):
            default = getattr(ancestor, name, None)
            break
    return own is not None and getattr(own, "__func__", own) is not getattr(default, "__func__", default)


def validator_name(cls: Any) -> str | None:
    """The name of the class's own validation function, or None."""
    if is_v3(cls):
        return "validate_inputs" if overrides(cls, "validate_inputs") else None
    return "VALIDATE_INPUTS" if hasattr(cls, "VALIDATE_INPUTS") else None


def fingerprint_name(cls: Any) -> str | None:
    """The name of the class's own change detection, or None."""
    if is_v3(cls) and overrides(cls, "fingerprint_inputs"):
        return "fingerprint_inputs"
    return "IS_CHANGED" if hasattr(cls, "IS_CHANGED") else None


def lazy_function_name(cls: Any) -> str | None:
    """The name of the function that says which lazy inputs are wanted, or None."""
    if is_v3(cls) and not overrides(cls, "check_lazy_status"):
        return None
    return "check_lazy_status" if hasattr(cls, "check_lazy_status") else None


def signature_of(function: Any) -> tuple[list[str], bool]:
    """Positional and keyword-only argument names (the class argument included), and whether it takes any keyword."""
    spec = inspect.getfullargspec(function)
    return [*spec.args, *spec.kwonlyargs], spec.varkw is not None


def _validator(cls: Any) -> dict[str, Any] | None:
    name = validator_name(cls)
    if name is None:
        return None
    args, kwargs = signature_of(getattr(cls, name))
    return {"args": args, "kwargs": kwargs, "input_types": "input_types" in args}


def _v1_info(
    class_type: str, cls: Any, sections: Mapping[str, Any], display_name: str | None
) -> dict[str, Any]:
    output = plain.to_json(list(return_types(cls)))
    flags = output_is_list(cls)
    names = getattr(cls, "RETURN_NAMES", None)
    info: dict[str, Any] = {
        "input": plain.to_json(sections),
        "input_order": {str(key): plain.to_json(list(section)) for key, section in sections.items()},
        "is_input_list": bool(getattr(cls, "INPUT_IS_LIST", False)),
        "output": output,
        "output_is_list": [False] * len(output) if flags is None else list(flags),
        "output_name": output if names is None else plain.to_json(list(names)),
        "name": class_type,
        "display_name": class_type if display_name is None else plain.clean(str(display_name)),
        "description": _text(getattr(cls, "DESCRIPTION", "")),
        "category": _text(getattr(cls, "CATEGORY", "sd")),
        "output_node": getattr(cls, "OUTPUT_NODE", False) is True,
        "has_intermediate_output": bool(getattr(cls, "HAS_INTERMEDIATE_OUTPUT", False)),
        "search_aliases": plain.to_json(list(getattr(cls, "SEARCH_ALIASES", None) or [])),
    }
    if hasattr(cls, "OUTPUT_TOOLTIPS"):
        info["output_tooltips"] = plain.to_json(cls.OUTPUT_TOOLTIPS)
    for key in ("deprecated", "experimental", "dev_only"):
        if getattr(cls, key.upper(), False):
            info[key] = True
    if hasattr(cls, "API_NODE"):
        info["api_node"] = bool(cls.API_NODE)
    if hasattr(cls, "ESSENTIALS_CATEGORY"):
        info["essentials_category"] = plain.to_json(cls.ESSENTIALS_CATEGORY)
    return info


def _v3_info(class_type: str, cls: Any) -> dict[str, Any]:
    info = cls.GET_NODE_INFO_V1()
    tidy: dict[str, Any] = plain.to_json(info if isinstance(info, Mapping) else vars(info))
    tidy.pop("python_module", None)
    tidy["name"] = class_type  # a class in V1 mappings goes by its name there, whatever its schema calls it
    return tidy


def _text(value: Any) -> str:
    return plain.clean(value) if isinstance(value, str) else str(plain.to_json(value))


def _declarations(sections: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (str(name), declaration)
        for key in ("required", "optional")
        for name, declaration in dict(sections.get(key) or {}).items()
        if 0 < len(str(name)) <= MAX_NAME
    ]


def _declared_type(declaration: Any) -> Any:
    return declaration[0] if isinstance(declaration, (tuple, list)) and declaration else declaration


def _with_option(sections: Mapping[str, Any], option: str) -> list[str]:
    found = []
    for name, declaration in _declarations(sections):
        options = declaration[1] if isinstance(declaration, (tuple, list)) and len(declaration) > 1 else None
        if isinstance(options, Mapping) and options.get(option) is True:
            found.append(plain.clean(name))
    return found


def _equals_anything(kind: Any, *, on_left: bool) -> bool:
    """True for the any-type trick: a type object whose "not equal" says no to a type that nobody ever declared."""
    if type(kind) in {str, list, tuple}:
        return False
    try:
        unequal = kind != _PROBE if on_left else _PROBE != kind  # noqa: SIM300 - the operand order is the point
    except Exception:  # noqa: BLE001 - the pack's operator
        return False
    return not unequal
