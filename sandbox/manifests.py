"""What a pack says it needs: its requirement files and isolation manifests, read as data.

Sources are ``requirements.txt``, ``[project]`` in ``pyproject.toml``, and the isolation manifests of packs written for
pyisolate: ``pyisolate.yaml``, ``manifest.yaml`` (when it is one), ``[tool.pyisolate]``, ``[tool.comfy.isolation]``.
They are added up; where two name the same package the more specific file is believed: an isolation manifest before
``requirements.txt`` before ``pyproject.toml``. Whatever else a manifest asks for is collected for the operator to
read (``asks``) and grants nothing: permissions come from policies only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from policies import safe_text
from sandbox.environment_errors import DependencyRefusedError, DirectReferenceError
from sandbox.implied_requirements import read_implied
from sandbox.pack_toml import parse_toml
from sandbox.requirement_lines import (
    MAX_REQUIREMENTS,
    Wanted,
    left_out,
    parse_requirement,
    read_requirements,
    read_text,
)

YAML_MANIFESTS = ("pyisolate.yaml", "pyisolate.yml", "manifest.yaml", "manifest.yml")
MAX_ASKS = 50
MAX_DEPTH = 16

_INSTALL_SCRIPT = (
    "install.py is not run: a pack's code runs in its sandbox only, which installs nothing; if the pack lacks what it "
    "would have brought, put packages into requirements.txt and files into the pack or the models directory"
)

# Words of a manifest that describe the pack; they ask for nothing.
_DESCRIPTION = frozenset(
    {"name", "version", "description", "author", "license", "dependencies", "standalone"}
)


@dataclass(frozen=True, slots=True)
class Declared:
    """What a pack asks for, before anybody decided about it."""

    wanted: tuple[Wanted, ...] = ()
    constraints: tuple[Wanted, ...] = ()
    asks: tuple[str, ...] = ()
    """Other wishes of its isolation manifest, as text for the operator; they grant nothing."""
    notes: tuple[str, ...] = ()
    implied: tuple[Wanted, ...] = ()
    """What it imports without declaring it, since ComfyUI brings it along; taken where it can be had."""


@dataclass(slots=True)
class _Manifest:
    place: str
    dependencies: list[Wanted] = field(default_factory=list)
    asks: list[str] = field(default_factory=list)


def read_declared(pack: Path) -> Declared:
    """Everything the pack in directory ``pack`` declares.

    Raises: DependencyRefusedError naming file and line when something is not allowed or not readable.
    """
    project, tables, left = _read_pyproject(pack)
    files = read_requirements(pack)
    manifests = [*_read_yaml_manifests(pack), *tables]
    isolation = [wanted for manifest in manifests for wanted in manifest.dependencies]
    wanted, notes = _merge((isolation, files.wanted, project))
    if len(wanted) > MAX_REQUIREMENTS:
        raise DependencyRefusedError(f"more than {MAX_REQUIREMENTS} requirements", place="the pack")
    asks = [ask for manifest in manifests for ask in manifest.asks]
    notes += [*files.notes, *(note for note in left if note not in files.notes)]
    if (pack / "install.py").is_file():
        notes.append(_INSTALL_SCRIPT)
    known = {canonicalize_name(item.requirement.name) for item in wanted}
    implied = [item for item in read_implied(pack) if canonicalize_name(item.requirement.name) not in known]
    return Declared(tuple(wanted), files.constraints, tuple(asks[:MAX_ASKS]), tuple(notes), tuple(implied))


def _merge(sources: Iterable[Iterable[Wanted]]) -> tuple[list[Wanted], list[str]]:
    """All requirements, the first source that names a package deciding about its version; extras are added up."""
    decided: dict[str, Requirement] = {}
    wanted: list[Wanted] = []
    notes: list[str] = []
    for source in sources:
        here: dict[str, Requirement] = {}
        for item in source:
            name = canonicalize_name(item.requirement.name)
            if name in decided:
                taken = decided[name]
                if str(taken) != str(item.requirement):
                    more = (
                        sorted(item.requirement.extras - taken.extras)
                        if item.requirement.marker is None
                        else []
                    )
                    taken.extras.update(more)
                    stays = f" (and [{','.join(more)}] of it stays)" if more else ""
                    notes.append(f"{item.place}: '{item.requirement}' is overruled by '{taken}'{stays}")
                continue
            here.setdefault(name, item.requirement)
            wanted.append(item)
        decided.update(here)
    return wanted, notes


def _read_pyproject(pack: Path) -> tuple[list[Wanted], list[_Manifest], list[str]]:
    file = pack / "pyproject.toml"
    if not file.is_file():
        return [], [], []
    text = read_text(file, "pyproject.toml")
    try:
        data = parse_toml(text)
    except ValueError as error:
        raise DependencyRefusedError(
            f"the file cannot be read: {safe_text(str(error), 200)}", place="pyproject.toml"
        ) from None
    project = _table(data, "project")
    left: list[str] = []
    wanted = list(_dependencies(project.get("dependencies"), "pyproject.toml [project]", left))
    tables = []
    for keys in (("tool", "pyisolate"), ("tool", "comfy", "isolation")):
        table = _table(data, *keys)
        if table:
            tables.append(_manifest(table, f"pyproject.toml [{'.'.join(keys)}]"))
    return wanted, tables, left


def _table(data: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    found: Any = data
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _read_yaml_manifests(pack: Path) -> Iterator[_Manifest]:
    for name in YAML_MANIFESTS:
        file = pack / name
        if not file.is_file():
            continue
        own = name.startswith("pyisolate.")
        try:
            data = _parse_yaml(read_text(file, name), name)
        except DependencyRefusedError:
            if own:
                raise
            continue  # some other tool's manifest.yaml is none of our business
        if isinstance(data, dict) and (own or "isolated" in data or "share_torch" in data):
            yield _manifest(data, name)
        elif own and data is not None:
            raise DependencyRefusedError(
                "this is not an isolation manifest",
                place=name,
                hint="write 'isolated: true' and 'dependencies:'",
            )


def _parse_yaml(text: str, place: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    try:
        depth = 0
        for event in yaml.parse(text):
            # An alias can make nine lines mean a billion.
            if isinstance(event, AliasEvent):
                raise DependencyRefusedError(
                    "aliases (*name) are not allowed", place=place, hint="write the value out"
                )
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if (
                depth > MAX_DEPTH
            ):  # the reader's time grows with its square: 64 KiB of brackets took half an hour
                raise DependencyRefusedError(
                    f"lists and maps are nested more than {MAX_DEPTH} levels deep", place=place
                )
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = place if line is None else f"{place}:{line + 1}"
        reason = safe_text(str(getattr(error, "problem", None) or error).splitlines()[0], 200)
        raise DependencyRefusedError(f"the file cannot be read: {reason}", place=where) from None


def _manifest(data: Mapping[Any, Any], place: str) -> _Manifest:
    manifest = _Manifest(place, list(_dependencies(data.get("dependencies"), place)))
    for key, value in data.items():
        if key in _DESCRIPTION:
            continue
        try:
            shown = json.dumps(value, ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError):
            shown = "..."
        manifest.asks.append(f"{place}: {safe_text(str(key), 60)} = {safe_text(shown, 160)}")
    return manifest


def _dependencies(value: Any, place: str, left: list[str] | None = None) -> Iterator[Wanted]:
    if value is None:
        return
    if not isinstance(value, list) or len(value) > MAX_REQUIREMENTS:
        raise DependencyRefusedError(
            "'dependencies' is not a list of requirements", place=place, hint="write one requirement per item"
        )
    for number, item in enumerate(value, 1):
        where = f"{place} dependencies[{number}]"
        if not isinstance(item, str):
            raise DependencyRefusedError("a dependency is not text", place=where, hint="write 'name==1.2'")
        if item.strip().startswith("-"):
            raise DependencyRefusedError(
                f"the option '{safe_text(item, 120)}' is not allowed", place=where, hint="write 'name==1.2'"
            )
        try:
            yield Wanted(parse_requirement(item.strip(), where), where)
        except DirectReferenceError as error:
            if left is None:
                raise
            left.append(left_out(error))
