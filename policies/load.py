"""Policy files to models, with an error for every mistake that says file, line, column and what to write.

YAML is read in `yaml_tree.py`, merging is `merge.py`; this module joins the two sides: what pydantic found is
looked up in the positions of the file and said in the words of the file.
"""

from __future__ import annotations

import difflib
import functools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policies import yaml_tree
from policies.errors import FieldError, PolicyError, PolicySyntaxError, Problem
from policies.model import DefaultsFile, PartialPolicy
from policies.path_entries import HostPath, TenantPath
from policies.text import safe_text
from policies.yaml_tree import Tree, parse_tree

ModelT = TypeVar("ModelT", bound=BaseModel)

_TAGS: dict[str, type[BaseModel]] = {"tenant-path": TenantPath, "host-path": HostPath}
_MEANT = {
    "shm": "shared_memory",
    "mounts": "paths",
    "volumes": "paths",
    "env": "environment",
    "ulimit": "nofile",
    "egress": "network",
    "web": "web_files",
    "runtime": "isolation",
}


@dataclass(frozen=True, slots=True)
class Loaded(Generic[ModelT]):
    """A model and the file it came from."""

    value: ModelT
    tree: Tree

    @property
    def file(self) -> str:
        """The name to show, as in `policies/blur.yaml`."""
        return self.tree.file


def load_policy(raw: bytes, file: str) -> Loaded[PartialPolicy]:
    """Raises: PolicySyntaxError unless `raw` is an extension's policy; `file` is the name to show."""
    return _load(PartialPolicy, raw, file)


def load_defaults(raw: bytes, file: str) -> Loaded[DefaultsFile]:
    """Raises: PolicySyntaxError unless `raw` is a `default.yaml`; `file` is the name to show."""
    return _load(DefaultsFile, raw, file)


def read_file(path: Path, file: str) -> tuple[bytes, os.stat_result]:
    """The bytes of a regular file of at most 64KiB, and the stat of what was really opened.

    Raises: PolicyError for anything else; FileNotFoundError as usual.
    """
    try:
        # O_NONBLOCK: a FIFO in the directory must not hang whoever lists policies.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PolicyError(
            f"cannot be opened: {error.strerror}", hint="check its owner and mode", file=file
        ) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise PolicyError("this is not a regular file", hint="name a YAML file", file=file)
        with os.fdopen(handle, "rb", closefd=False) as stream:
            return stream.read(yaml_tree.MAX_BYTES + 1), status
    finally:
        os.close(handle)


# The shipped files are read by everything that looks at policies, and nothing changes what was loaded.
@functools.lru_cache(maxsize=32)
def _load(model: type[ModelT], raw: bytes, file: str) -> Loaded[ModelT]:
    tree = parse_tree(raw, file)
    try:
        return Loaded(model.model_validate(tree.data), tree)
    except ValidationError as error:
        found = [_problem(model, detail, tree) for detail in error.errors(include_url=False)]
        raise PolicySyntaxError(file, list(dict.fromkeys(found))) from None


def _problem(model: type[BaseModel], detail: ErrorDetails, tree: Tree) -> Problem:
    kind = detail["type"]
    path = tuple(part for part in detail["loc"] if part not in _TAGS and part != "[key]")
    about_key = kind == "extra_forbidden" or "[key]" in detail["loc"]
    line, column = tree.position(path, of_value=not about_key)
    message, hint = _say(model, detail, path)
    if path and kind != "extra_forbidden":
        message = f"{safe_text(_dotted(path), 120)}: {message}"
    return Problem(line, column, message, hint)


def _say(model: type[BaseModel], detail: ErrorDetails, path: yaml_tree.Path) -> tuple[str, str]:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return cause.message, cause.hint
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(model, detail["loc"])
        case "literal_error":
            wanted = str(detail.get("ctx", {}).get("expected", ""))
            return f"'{safe_text(str(detail['input']), 60)}' is not possible here", f"write {wanted}"
        case "missing":
            return f"this entry has no '{path[-1]}'", f"add '{path[-1]}: ...'"
        case "union_tag_not_found" | "union_tag_invalid":
            return (
                "a path says which directory it means",
                "write '{tenant: input, access: ro}' or '{host: /srv/x, mount: /mnt/x, access: ro}'",
            )
        case "bool_type":
            return "this is neither true nor false", "write true or false, without quotes"
        case "tuple_type" | "list_type":
            return "this is not a list", "write one item per line, each beginning with '- '"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "this is not a map of keys", "write 'key: value' lines below it, indented"
        case "string_type":
            return "this is not text", "put the value in quotes"
        case _:
            return safe_text(detail["msg"], 200), "see docs/policy-reference.md"


def _unknown_key(model: type[BaseModel], loc: tuple[str | int, ...]) -> tuple[str, str]:
    key = str(loc[-1])
    known = _keys_at(model, loc[:-1])
    where = _dotted(tuple(part for part in loc[:-1] if part not in _TAGS))
    message = f"unknown key '{safe_text(key, 60)}'" + (f" in {safe_text(where, 120)}" if where else "")
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    guess = _MEANT.get(key) if _MEANT.get(key) in known else (near[0] if near else None)
    if guess:
        return message, f"did you mean '{guess}'?"
    for section in known:
        if key in _keys_at(model, (*loc[:-1], section)):
            return message, f"it belongs below '{section}:'"
    return message, f"the keys here are {', '.join(known)}"


def _keys_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys a file may write at `loc`, in the order of the model."""
    models: list[type[BaseModel]] = [model]
    for part in loc:
        if part in _TAGS:
            models = [_TAGS[str(part)]]
            continue
        fields = [
            found for one in models for name, found in one.model_fields.items() if part in (found.alias, name)
        ]
        if fields:
            models = [inner for found in fields for inner in _models_in(found.annotation)]
        # else: an index of a list or a tenant's name; the models inside stay the same
    return list(
        dict.fromkeys(found.alias or name for one in models for name, found in one.model_fields.items())
    )


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _dotted(path: yaml_tree.Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text
