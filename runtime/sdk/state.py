"""What a node instance keeps on the host: named plain data that outlives this worker.

The host knows whose state it is by the call that runs. All of it is fetched when a call first asks, and changes are
sent at once; what was changed inside a list or dict that the call got from here is found and sent when the call ends.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from .. import wire
from . import context, host

_MAX_NAME = 256


class NoNodeError(RuntimeError):
    """State was asked for while no node runs."""

    __module__ = "ringfence"  # as shown to users


@dataclass(slots=True)
class _Table:
    """The state of one node instance during one call."""

    values: dict[str, Any]
    """As the node sees and changes them."""
    kept: dict[str, Any]
    """As the host has them."""
    lock: threading.RLock = field(default_factory=threading.RLock)


_tables: dict[str | int, _Table] = {}
_tables_lock = threading.Lock()


def get(name: str) -> Any:
    """The value kept under ``name``; None when there is none.

    Raises:
        NoNodeError: no node runs here.
    """
    return _table().values.get(_name(name))


def names() -> list[str]:
    """Everything that is kept."""
    return list(_table().values)


def set(name: str, value: Any) -> None:  # noqa: A001 - named as what it does
    """Keep plain data under ``name``.

    Raises:
        NoNodeError: no node runs here.
        TypeError: the value is no plain data; says where in it.
        ValueError: the name is none, or the node would keep more than ``wire.MAX_STATE`` bytes.
        RpcError: the host refused (QUOTA_EXCEEDED).
    """
    name = _name(name)
    plain = _plain(value, name)
    table, call = _table(), _call()
    with table.lock:
        _check_size({**table.kept, name: plain})
        _ask(wire.STATE_SET, {"call": call.call, "values": {name: plain}})
        table.values[name] = value if _is_json(value) else copy.deepcopy(plain)
        table.kept[name] = plain


def delete(name: str) -> Any:
    """Forget ``name``; return what was there, or None.

    Raises:
        NoNodeError: no node runs here.
    """
    name = _name(name)
    table, call = _table(), _call()
    with table.lock:
        if name not in table.values:
            return None
        _ask(wire.STATE_DELETE, {"call": call.call, "names": [name]})
        table.kept.pop(name, None)
        return table.values.pop(name)


def flush(call: str | int) -> None:
    """The call is over: send what was changed in place, and forget its table. Raises as ``set``."""
    if not _tables_lock.locked() and call not in _tables:
        return  # nobody asked for it, and nobody is about to get it
    with _tables_lock:
        table = _tables.pop(call, None)
    if table is None:
        return
    with table.lock:
        now = {name: _plain(value, name) for name, value in table.values.items()}
        # Compared as text: to Python, 1 and True are the same.
        changed = {
            name: value
            for name, value in now.items()
            if name not in table.kept or json.dumps(value) != json.dumps(table.kept[name])
        }
        if changed:
            _check_size({**table.kept, **changed})
            _ask(wire.STATE_SET, {"call": call, "values": changed})


class kept:  # noqa: N801 - reads as a verb in `with`; a class, for it is entered with every call
    """Flush when the body ends; a body that fails fails with its own error, whatever becomes of its changes."""

    __slots__ = ("_call",)

    def __init__(self, call: str | int) -> None:
        self._call = call

    def __enter__(self) -> None:
        """Nothing is kept before somebody asks for it."""

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            flush(self._call)
            return
        try:
            flush(self._call)
        except Exception as error:  # noqa: BLE001
            print(f"the state of the failed node was not kept: {error}", file=sys.stderr)  # noqa: T201


def _call() -> context.CallContext:
    call = context.current() or context.latest()
    if call is None:
        raise NoNodeError("node state can be used while a node runs, not at import or from a route")
    return call


def _table() -> _Table:
    call = _call()
    with _tables_lock:
        table = _tables.get(call.call)
        if table is None:
            kept = _ask(wire.STATE_GET, {"call": call.call})["values"]
            table = _tables[call.call] = _Table(copy.deepcopy(kept), kept)
        return table


def _ask(method: str, params: dict[str, Any]) -> Any:
    line = host.connected()
    if line is None:
        # Without a host there is nobody to keep it, but a call still sees what it set.
        return {"values": {}}
    return line.request(method, params)


def _name(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise ValueError(f"the name of a state attribute must be 1 to {_MAX_NAME} printable characters")
    return name


def _check_size(values: dict[str, Any]) -> None:
    if len(values) > wire.MAX_STATE_NAMES:
        raise ValueError(
            f"a node may keep {wire.MAX_STATE_NAMES} attributes, this one would keep {len(values)}; "
            f"delete some, or keep one dict"
        )
    size = len(json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))
    if size > wire.MAX_STATE:
        raise ValueError(
            f"a node may keep {wire.MAX_STATE} bytes of state, this one would keep {size}; "
            f"keep large data in a file of the output or user directory"
        )


def _is_json(value: Any) -> bool:
    """Whether JSON gives the value back as it is: the node may then go on changing the very object it set."""
    return type(value) in {list, dict, str, int, float, bool, type(None)}


def _plain(value: Any, place: str, depth: int = 0) -> Any:
    """A deep copy of plain data (a tuple becomes a list).

    Raises:
        TypeError: something in it is no plain data.
    """
    if value is None or type(value) in {bool, int}:
        return value
    if isinstance(value, str):
        # Half of a surrogate pair is no text for a database.
        return str(value).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = int(value) if isinstance(value, int) else float(value)
        if not math.isfinite(number):
            raise TypeError(f"state attribute {place} is {number}; state holds finite numbers only")
        return number
    if depth >= wire.MAX_DEPTH // 2:
        raise TypeError(f"state attribute {place} is nested more than {depth} levels deep")
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(
                    f"state attribute {place} has the key {key!r:.60}; keys of state must be text"
                )
        return {
            str(key).encode("utf-8", "replace").decode("utf-8"): _plain(
                item, f"{place}.{key}"[:200], depth + 1
            )
            for key, item in value.items()
        }
    raise TypeError(
        f"state attribute {place} is a {type(value).__name__}; state holds plain data (numbers, text, lists, dicts), "
        f"because it outlives the sandbox"
    )
