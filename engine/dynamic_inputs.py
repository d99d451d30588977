"""V3 dynamic inputs made plain: which dotted names a node instance declares, given what its prompt entry holds.

``Autogrow``, ``DynamicCombo`` and ``DynamicSlot`` stand in ``info["input"]`` as templates; a prompt names their
children ``<input id>.<child>``. Everything else (``MatchType`` too) is declared as it stands. Templates come from a
sandbox: depth and counts are bounded here, and a malformed one declares nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

AUTOGROW: Final = "COMFY_AUTOGROW_V3"
DYNAMIC_COMBO: Final = "COMFY_DYNAMICCOMBO_V3"
DYNAMIC_SLOT: Final = "COMFY_DYNAMICSLOT_V3"
_DYNAMIC: Final = (AUTOGROW, DYNAMIC_COMBO, DYNAMIC_SLOT)
MAX_NESTING: Final = 8
MAX_GROWTH: Final = 1_000

JSON = Any


@dataclass(frozen=True, slots=True)
class InputDeclaration:
    """One declared input of a node instance; ``type`` is a string or a list of combo options."""

    name: str
    type: JSON
    options: Mapping[str, JSON]
    required: bool
    config: JSON  # [type, options], as error messages show it
    dynamic: bool = False  # child of a dynamic input: messages show the last segment only

    @property
    def label(self) -> str:
        """The name as ``required_input_missing`` shows it."""
        return self.name.rpartition(".")[2] if self.dynamic else self.name


class Declarations:
    """What one node class declares, as ``info["input"]`` says; made once where it is the same for every instance."""

    __slots__ = ("_fixed", "_info", "_is_fixed")

    def __init__(self, info_input: JSON) -> None:
        self._info = info_input
        self._is_fixed: bool | None = None
        self._fixed: Mapping[str, InputDeclaration] = {}

    def of(self, given: Mapping[str, JSON]) -> Mapping[str, InputDeclaration]:
        """Those of a node whose prompt entry holds the inputs ``given``, by name: the required, then the optional."""
        if self._is_fixed is None:
            is_fixed = not any(_split(spec)[0] in _DYNAMIC for _, _, spec in _sections(self._info))
            if is_fixed:
                self._fixed = declared_inputs(self._info, {})
            # Last: a large prompt is looked at in a thread, and another one meanwhile.
            self._is_fixed = is_fixed
        return self._fixed if self._is_fixed else declared_inputs(self._info, given)


def declared_inputs(info_input: JSON, given: Mapping[str, JSON]) -> dict[str, InputDeclaration]:
    """By name: the required, then the optional inputs of a node whose prompt entry holds the inputs ``given``."""
    found: dict[str, InputDeclaration] = {}
    prefixes = _prefixes(given)
    for section, name, spec in _sections(info_input):
        for declaration in _flatten(name, spec, section == "required", Given(given, prefixes), 0):
            found.setdefault(declaration.name, declaration)
    return found


@dataclass(frozen=True, slots=True)
class Given:
    """A prompt entry's inputs, and every dotted prefix of their names."""

    values: Mapping[str, JSON]
    prefixes: frozenset[str]

    def holds(self, path: str) -> bool:
        """True when the entry names ``path`` or something below it."""
        return path in self.values or path in self.prefixes


def _prefixes(given: Mapping[str, JSON]) -> frozenset[str]:
    found: set[str] = set()
    for key in given:
        end = key.find(".")
        for _ in range(2 * MAX_NESTING):
            if end < 0:
                break
            found.add(key[:end])
            end = key.find(".", end + 1)
    return frozenset(found)


def _sections(info_input: JSON) -> Iterator[tuple[str, str, JSON]]:
    if not isinstance(info_input, Mapping):
        return
    for section in ("required", "optional"):
        entries = info_input.get(section)
        if isinstance(entries, Mapping):
            for name, spec in entries.items():
                yield section, str(name), spec


def _split(spec: JSON) -> tuple[JSON, Mapping[str, JSON]]:
    if not isinstance(spec, list | tuple) or not spec:
        return "*", {}
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
    return spec[0], options


def _flatten(name: str, spec: JSON, required: bool, given: Given, depth: int) -> Iterator[InputDeclaration]:
    kind, options = _split(spec)
    if kind == AUTOGROW and depth < MAX_NESTING:
        yield from _autogrow(name, options, given, depth)
    elif kind == DYNAMIC_COMBO and depth < MAX_NESTING:
        yield from _dynamic_combo(name, kind, options, given, depth)
    elif kind == DYNAMIC_SLOT and depth < MAX_NESTING:
        yield from _dynamic_slot(name, options, given, depth)
    else:
        yield InputDeclaration(name, kind, options, required, [kind, dict(options)], depth > 0)


def _autogrow(name: str, options: Mapping[str, JSON], given: Given, depth: int) -> Iterator[InputDeclaration]:
    template = options.get("template")
    if not isinstance(template, Mapping):
        return
    grown = next(_sections(template.get("input")), None)
    if grown is None:
        return
    section, _, spec = grown
    least = template.get("min", 0)
    least = least if isinstance(least, int) else 0
    for position, child in enumerate(_grown_names(template)):
        path = f"{name}.{child}"
        required = section == "required" and position < least
        # Names neither needed nor given declare nothing: a template may allow a thousand of them.
        if required or given.holds(path):
            yield from _flatten(path, spec, required, given, depth + 1)


def _grown_names(template: Mapping[str, JSON]) -> list[str]:
    names = template.get("names")
    if isinstance(names, list):
        return [str(child) for child in names[:MAX_GROWTH]]
    most = template.get("max", 10)
    count = min(most, MAX_GROWTH) if isinstance(most, int) else 10
    return [f"{template.get('prefix', '')}{number}" for number in range(count)]


def _dynamic_combo(
    name: str, kind: str, options: Mapping[str, JSON], given: Given, depth: int
) -> Iterator[InputDeclaration]:
    choices = options.get("options")
    chosen = given.values.get(name)
    if not isinstance(choices, list):
        return
    for choice in choices:
        if isinstance(choice, Mapping) and choice.get("key") == chosen:
            # An unknown or missing key means "not declared at all", which is why this stands inside the loop.
            yield InputDeclaration(name, kind, {}, False, [kind, dict(options)], True)
            yield from _children(name, choice.get("inputs"), given, depth)
            return


def _dynamic_slot(
    name: str, options: Mapping[str, JSON], given: Given, depth: int
) -> Iterator[InputDeclaration]:
    kind = options.get("slotType", "*")
    yield InputDeclaration(name, kind, {}, False, [kind, dict(options)], depth > 0)
    if name in given.values:
        yield from _children(name, options.get("inputs"), given, depth)


def _children(name: str, inputs: JSON, given: Given, depth: int) -> Iterator[InputDeclaration]:
    for section, child, spec in _sections(inputs):
        yield from _flatten(f"{name}.{child}", spec, section == "required", given, depth + 1)
