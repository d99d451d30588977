"""Checks of one constant input: conversion, range, choice (execution-semantics §2.1 step 3).

Pure; the only effect is that the converted value is written back into the node's inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.dynamic_inputs import InputDeclaration
from engine.prompt import WRAPPED
from engine.types import COMBO
from policies import safe_text

JSON = Any
NodeError = dict[str, Any]

MAX_SHOWN_OPTIONS: Final = 20
_CONVERSIONS: Final = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


class WouldRaiseError(Exception):
    """Stands for the Python exception that ComfyUI would meet while validating a node."""

    def __init__(self, kind: str, text: str, traceback: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.traceback = list(traceback)


def node_error(kind: str, message: str, details: str, **extra: JSON) -> NodeError:
    """One entry of a node's ``errors``."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def check_constant(
    declaration: InputDeclaration, inputs: dict[str, JSON], *, checked_by_node: bool
) -> NodeError | None:
    """Convert ``inputs[declaration.name]`` in place and return what is wrong with it, if anything.

    Raises:
        WouldRaiseError: the value cannot be compared with the declared range.
    """
    name, options = declaration.name, declaration.options
    value = inputs[name]
    if isinstance(value, dict) and WRAPPED in value:
        value = inputs[name] = value[WRAPPED]
    convert = _CONVERSIONS.get(declaration.type) if isinstance(declaration.type, str) else None
    about: dict[str, JSON] = {"input_name": name, "input_config": declaration.config, "received_value": value}
    if convert is not None:
        try:
            value = inputs[name] = convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            return node_error(
                "invalid_input_type",
                f"Failed to convert an input value to a {declaration.type} value",
                f"{name}, {safe_text(value, 200) if isinstance(value, str) else shown(value)}, {error}",
                **about,
                exception_message=str(error),
            )
    if checked_by_node:
        return None
    about["received_value"] = value
    try:
        if "min" in options and value < options["min"]:
            text = f"Value {shown(value)} smaller than min of {shown(options['min'])}"
            return node_error("value_smaller_than_min", text, name, **about)
        if "max" in options and value > options["max"]:
            text = f"Value {shown(value)} bigger than max of {shown(options['max'])}"
            return node_error("value_bigger_than_max", text, name, **about)
    except TypeError as error:
        raise WouldRaiseError("TypeError", f"{name}: {error}") from None
    return _check_choice(declaration, value, about)


def _check_choice(declaration: InputDeclaration, value: JSON, about: dict[str, JSON]) -> NodeError | None:
    if isinstance(declaration.type, list):
        choices: list[JSON] = declaration.type
    elif declaration.type == COMBO:
        given = declaration.options.get("options", [])
        choices = given if isinstance(given, list) else []
        if declaration.options.get("remote_combo") or declaration.options.get("remote"):
            return None  # the browser fetched the choices; nobody else knows them
    else:
        return None
    several = isinstance(value, list) and bool(declaration.options.get("multiselect"))
    wrong = [item for item in (value if several else [value]) if item not in choices]
    if not wrong:
        return None
    is_long = len(choices) > MAX_SHOWN_OPTIONS
    listed = f"(list of length {len(choices)})" if is_long else shown(choices, 2_000)
    about = {**about, "input_config": None if is_long else declaration.config}
    refused = ", ".join(shown(item) for item in wrong[:MAX_SHOWN_OPTIONS])
    return node_error(
        "value_not_in_list", "Value not in list", f"{declaration.name}: {refused} not in {listed}", **about
    )


def shown(value: JSON, limit: int = 200) -> str:
    """A value as error messages quote it."""
    # Cut before repr: the value may be a hundred megabytes of text.
    return safe_text(repr(value[: limit + 1] if isinstance(value, str) else value), limit)
