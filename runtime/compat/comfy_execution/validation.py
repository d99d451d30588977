"""``comfy_execution.validation``: whether an output's type fits an input's."""

from __future__ import annotations

#: A type that takes, or gives, any other; the second stands for the type of another socket of its node.
_WILD = ("*", "COMFY_MATCHTYPE_V3")


def validate_node_input(received_type: object, input_type: object, strict: bool = False) -> bool:
    """True when a value of ``received_type`` may be linked to ``input_type``.

    The comparison asks the objects themselves: packs subclass ``str`` with a "not equal" of their own. Comma unions
    fit when they share a type; with ``strict`` when everything that may come is accepted.
    """
    sides = (received_type, input_type)
    if not received_type != input_type or any(side == wild for side in sides for wild in _WILD):  # noqa: SIM202
        return True
    if not (isinstance(received_type, str) and isinstance(input_type, str)):
        return isinstance(received_type, list) and input_type == "COMBO"
    offered, accepted = ({part.strip() for part in side.split(",")} for side in (received_type, input_type))
    common = offered & accepted
    return "*" in offered | accepted or (common == offered if strict else bool(common))
