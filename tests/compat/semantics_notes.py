"""The form in which behaviour is noted: what ran, what came out, which errors with which fields. No texts, no times."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

JSON = Any

NOTES: Final = Path(__file__).with_name("semantics_observed.json")
_IN_PACK: Final = re.compile(r"^.*custom_nodes[/.][^.]*\.")


def refused(error: Mapping[str, JSON], node_errors: Mapping[str, JSON]) -> JSON:
    """A prompt that was not queued."""
    return {"refused": error["type"], "node_errors": _node_errors(node_errors)}


def ended(
    node_errors: Mapping[str, JSON], said: Iterable[tuple[str, Mapping[str, JSON]]], entry: Mapping[str, JSON]
) -> JSON:
    """A prompt that ran: its answer, the messages to its client, its history entry. Order counts for nothing, since
    which of several ready nodes goes first is nobody's promise."""
    messages = list(said)
    of = {kind: [data for name, data in messages if name == kind] for kind, _ in messages}
    found = {
        "node_errors": _node_errors(node_errors),
        "executing": sorted(
            [data["node"], data["display_node"]] for data in of.get("executing", ()) if data["node"]
        ),
        "executed": sorted(
            [data["node"], data["display_node"], json.dumps(data["output"], sort_keys=True)]
            for data in of.get("executed", ())
        ),
        "cached": sorted(node_id for data in of.get("execution_cached", ()) for node_id in data["nodes"]),
        "blocked": sorted(
            [data["node_id"], data["node_type"]]
            for data in of.get("execution_error", ())
            if data["exception_type"] == "ExecutionBlocked"
        ),
        "outputs": entry["outputs"],
    }
    kind, data = entry["status"]["messages"][-1]
    end: JSON = kind.removeprefix("execution_")
    if end == "error":
        kind = _IN_PACK.sub("", data["exception_type"])
        end = [end, data["node_id"], data["node_type"], kind, data["current_inputs"]]
    elif end == "interrupted":
        end = [end, data["node_id"], data["node_type"]]
    return {**found, "end": end}


def plain(note: JSON) -> JSON:
    """As JSON brings it back."""
    text = json.dumps(note).replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "null")
    return json.loads(text)


def _node_errors(node_errors: Mapping[str, JSON]) -> JSON:
    return {
        node_id: [
            entry["class_type"],
            sorted(entry["dependent_outputs"]),
            sorted(([error["type"], _fields(error["extra_info"])] for error in entry["errors"]), key=repr),
        ]
        for node_id, entry in node_errors.items()
    }


def _fields(extra: Mapping[str, JSON]) -> JSON:
    return {name: value for name, value in extra.items() if name not in ("traceback", "exception_message")}
