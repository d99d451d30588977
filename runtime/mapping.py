"""List mapping: one execution becomes calls, and what they return becomes slots. Pure; knows no threads, no wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .blocker import ExecutionBlocker

Arguments = dict[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Returned:
    """What one mapped call gave back, in one form for V1 and V3."""

    values: Sequence[Any]
    ui: Mapping[str, Any] | None = None
    expand: Mapping[str, Any] | None = None


def split(arguments: Mapping[str, Sequence[Any]], *, is_list: bool) -> list[dict[str, Any]]:
    """Return the keyword arguments of each call.

    With ``is_list`` there is one call that gets the whole lists. Otherwise there are as many as the longest list has
    items; shorter lists repeat their last. When there is no item at all, one call without arguments.

    Raises:
        IndexError: one list is empty and another is not.
    """
    if is_list:
        return [dict(arguments)]
    counts = {len(items) for items in arguments.values()}
    if counts == {1}:
        return [{name: items[0] for name, items in arguments.items()}]
    count = max(counts, default=0)
    if count == 0:
        return [{}]
    for name, items in arguments.items():
        if len(items) == 0:
            raise IndexError(f"input {name!r} received an empty list, while another input has {count} items")
    return [
        {name: items[min(index, len(items) - 1)] for name, items in arguments.items()}
        for index in range(count)
    ]


def find_blocker(arguments: Mapping[str, Any], *, is_list: bool) -> ExecutionBlocker | None:
    """Return the first blocker among the arguments of one call."""
    for value in arguments.values():
        for item in value if is_list else (value,):
            if isinstance(item, ExecutionBlocker):
                return item
    return None


def merge_slots(results: Sequence[Sequence[Any]], output_is_list: Sequence[bool] | None) -> list[list[Any]]:
    """Merge the results of all calls, slot by slot.

    Raises:
        IndexError: a call returned fewer values than the first one.
        TypeError: it returned no list where a list is declared.
    """
    if not results:
        return []
    count = len(results[0])
    if output_is_list is not None:
        count = min(count, len(output_is_list))
    slots: list[list[Any]] = []
    for slot in range(count):
        merged: list[Any] = []
        for index, values in enumerate(results):
            if slot >= len(values):
                raise IndexError(
                    f"call {index} returned {len(values)} outputs, the first call returned {len(results[0])}"
                )
            value = values[slot]
            if output_is_list is None or not output_is_list[slot] or isinstance(value, ExecutionBlocker):
                merged.append(value)
                continue
            try:
                merged.extend(value)
            except TypeError as error:
                raise TypeError(
                    f"output {slot} is declared as a list, but the node returned {type(value).__name__}"
                ) from error
        slots.append(merged)
    return slots


def merge_ui(uis: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]] | None:
    """Concatenate the UI objects of all calls under the keys of the first; None when there is none.

    Raises:
        KeyError: a later call lacks a key of the first.
        TypeError: a value is no list.
    """
    if not uis:
        return None
    merged: dict[str, list[Any]] = {}
    for key in uis[0]:
        merged[key] = []
        for ui in uis:
            if key not in ui:
                raise KeyError(f"ui key {key!r} is missing from a later call's ui")
            try:
                merged[key].extend(ui[key])
            except TypeError as error:
                raise TypeError(
                    f"ui key {key!r} holds {type(ui[key]).__name__}; it must be a list"
                ) from error
    return merged


def normalise(returned: Any, output_count: int) -> Returned:
    """Bring the return value of a V1 function, or of a V3 class's normalised execute, into one form.

    Raises:
        TypeError: it is none of the forms that a node may return.
    """
    if isinstance(returned, ExecutionBlocker):
        return Returned([returned] * output_count)
    if isinstance(returned, dict):
        return _from_dict(returned, output_count)
    if hasattr(returned, "block_execution") and hasattr(returned, "expand"):
        return _from_node_output(returned, output_count)
    return Returned(_sequence(returned))


def _from_dict(returned: dict[str, Any], output_count: int) -> Returned:
    values = returned.get("result", ())
    if isinstance(values, ExecutionBlocker):
        values = [values] * output_count
    return Returned(_sequence(values), _ui(returned.get("ui")), _graph(returned.get("expand")))


def _from_node_output(output: Any, output_count: int) -> Returned:
    values = output.result
    if output.block_execution is not None:
        # ComfyUI blocks only when the node also returned values; whoever blocks without values means the same.
        values = [ExecutionBlocker(output.block_execution)] * (len(values) if values else output_count)
    return Returned(_sequence(() if values is None else values), _ui(output.ui), _graph(output.expand))


def _sequence(values: Any) -> Sequence[Any]:
    if isinstance(values, (tuple, list)):
        return values
    if values is None:
        raise TypeError("the node returned None; it must return a tuple with one value per output")
    if hasattr(values, "__len__") and hasattr(values, "__getitem__") and not isinstance(values, Mapping):
        return [values[index] for index in range(len(values))]  # as ComfyUI does: a bare tensor is cut up
    raise TypeError(
        f"the node returned {type(values).__name__}; it must return a tuple with one value per output"
    )


def _ui(ui: Any) -> Mapping[str, Any] | None:
    if ui is None:
        return None
    if hasattr(ui, "as_dict"):
        ui = ui.as_dict()
    if not isinstance(ui, Mapping):
        raise TypeError(f"ui must be a dict, not {type(ui).__name__}")
    return ui or None


def _graph(expand: Any) -> Mapping[str, Any] | None:
    if expand is None:
        return None
    if not isinstance(expand, Mapping):
        raise TypeError(f"expand must be a dict of nodes, not {type(expand).__name__}")
    return expand
