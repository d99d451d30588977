"""``comfy_execution.validation``: whether an output's type fits an input's."""

from __future__ import annotations


def validate_node_input(received_type: object, input_type: object, strict: bool = False) -> bool:
    """True when a value of ``received_type`` may be linked to ``input_type``.

    The comparison asks the objects themselves: packs subclass ``str`` with a "not equal" of their own. Comma unions
    fit when they share a type; with ``strict`` when everything that may come is accepted.
    """
    if not received_type != input_type:  # noqa: SIM202 - "not equal" is what packs override
        return True
    if received_type == "*" or input_type == "*" or "COMFY_MATCHTYPE_V3" in (received_type, input_type):
        return True
    if isinstance(received_type, list) and input_type == "COMBO":
        return True
    if not isinstance(received_type, str) or not isinstance(input_type, str):
        return False
    received = {part.strip() for part in received_type.split(",")}
    accepted = {part.strip() for part in input_type.split(",")}
    if "*" in received | accepted:
        return True
    return received <= accepted if strict else bool(received & accepted)
