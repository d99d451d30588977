"""Node descriptions as they enter the host: each is checked by itself, and a bad one is left out with its reason.

What a worker says of its nodes was computed by the pack's own code. Nothing in it is believed: forms, lengths and
counts are checked here, what is left out is named for the operator, and the pack's other nodes load.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, ValidationError

from policies import safe_text
from runtime import wire
from sandbox import hostile_json
from sandbox.calls import NodeDescription, NodeReplacement, Validator, measure
from sandbox.figures import human_bytes
from sandbox.strict import Name, Strict

MAX_NODES: Final = 10_000
MAX_PAGES: Final = 64
MAX_WEIGHT: Final = 4 * wire.MAX_DESCRIPTIONS
"""What all descriptions of one extension may take of the host's memory."""
MAX_INPUTS: Final = 2_000
MAX_OUTPUTS: Final = 1_000
MAX_TYPE: Final = 4_096
_LABEL: Final = 1_000
_PROSE: Final = 100_000
_SECTIONS: Final = ("required", "optional", "hidden")
_MAX_NOTES: Final = 20


class _Validator(Strict):
    args: list[Name]
    kwargs: bool
    input_types: bool


class _Node(Strict):
    class_type: Name
    info: dict[str, Any]
    api: Annotated[str, StringConstraints(max_length=16)]
    hidden: dict[Name, Name]
    any_inputs: list[Name]
    any_outputs: list[Annotated[int, Field(ge=0, le=10_000)]]
    accepts_any_name: bool
    raw_link: list[Name]
    lazy: list[Name]
    output_node: bool
    not_idempotent: bool
    is_async: bool
    has_lazy: bool
    has_fingerprint: bool
    validator: _Validator | None
    dynamic: bool
    enable_expand: bool

    def plain(self) -> NodeDescription:
        """As the engine knows it."""
        said = self.validator
        validator = Validator(tuple(said.args), said.kwargs, said.input_types) if said else None
        return NodeDescription(
            class_type=self.class_type,
            info=hostile_json.plain(self.info),
            api=self.api,
            hidden=self.hidden,
            any_inputs=frozenset(self.any_inputs),
            any_outputs=frozenset(self.any_outputs),
            accepts_any_name=self.accepts_any_name,
            raw_link=frozenset(self.raw_link),
            lazy=frozenset(self.lazy),
            output_node=self.output_node,
            not_idempotent=self.not_idempotent,
            is_async=self.is_async,
            has_lazy=self.has_lazy,
            has_fingerprint=self.has_fingerprint,
            validator=validator,
            dynamic=self.dynamic,
            enable_expand=self.enable_expand,
        )


class _InputMapping(Strict):
    new_id: Name
    old_id: Name | None = None
    set_value: Any = None


class _OutputMapping(Strict):
    new_idx: Annotated[int, Field(ge=0, lt=MAX_OUTPUTS)]
    old_idx: Annotated[int, Field(ge=0, lt=MAX_OUTPUTS)]


class _Replacement(Strict):
    new_node_id: Name
    old_node_id: Name
    old_widget_ids: Annotated[list[Name], Field(max_length=MAX_INPUTS)] | None = None
    input_mapping: Annotated[list[_InputMapping], Field(max_length=MAX_INPUTS)] | None = None
    output_mapping: Annotated[list[_OutputMapping], Field(max_length=MAX_OUTPUTS)] | None = None

    def plain(self) -> NodeReplacement:
        """As the engine knows it."""
        inputs = None if self.input_mapping is None else [_said(item) for item in self.input_mapping]
        outputs = None if self.output_mapping is None else [item.model_dump() for item in self.output_mapping]
        return NodeReplacement(
            self.new_node_id,
            self.old_node_id,
            None if self.old_widget_ids is None else tuple(self.old_widget_ids),
            None if inputs is None else tuple(inputs),
            None if outputs is None else tuple(outputs),
        )


def _said(item: _InputMapping) -> dict[str, Any]:
    data: dict[str, Any] = hostile_json.plain(item.model_dump(exclude_unset=True))
    return data


class Registration:
    """Collects the nodes of one extension, page by page."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeDescription] = {}
        self.left_out: dict[str, str] = {}
        """Class -> why; what the worker left out as well."""
        self.notes: list[str] = []
        self._weight = 0

    def add(self, said: Iterable[Any], skipped: Mapping[str, str]) -> None:
        """Take one page."""
        for name, reason in skipped.items():
            self._leave_out(name, reason)
        for item in said:
            node = self._node(item)
            if node is not None:
                self.nodes[node.class_type] = node
                self._note_defaults(node)

    def replacements(self, said: Iterable[Any]) -> tuple[NodeReplacement, ...]:
        """Check what the extension says of old classes; a bad one is left out with a note."""
        kept: list[NodeReplacement] = []
        for item in said:
            try:
                kept.append(_Replacement.model_validate(item).plain())
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                place = ".".join(str(part) for part in first["loc"])
                if len(self.notes) < _MAX_NOTES:
                    self.notes.append(
                        safe_text(f"a node replacement was left out: {place or 'it'}: {first['msg']}", 500)
                    )
        return tuple(kept)

    def _node(self, item: Any) -> NodeDescription | None:
        name = item.get("class_type") if isinstance(item, dict) else None
        name = name if isinstance(name, str) else "(no name)"
        try:
            node = _Node.model_validate(item)
            reason = flaw(node.class_type, node.info) or _mismatch(node)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            node, reason = None, f"its description is malformed: {place or 'it'}: {first['msg']}"
        if node is None or reason:
            self._leave_out(name, reason or "")
            return None
        if name in self.nodes:
            self._leave_out(name, "the extension declares this name twice; the first one is used")
            return None
        weight = measure(item)[1]
        if len(self.nodes) >= MAX_NODES:
            self._leave_out(name, f"the extension has more than {MAX_NODES} nodes")
            return None
        if self._weight + weight > MAX_WEIGHT:
            self._leave_out(
                name,
                f"the descriptions of this extension's nodes would take {human_bytes(self._weight + weight)} of the "
                f"host's memory, at most {human_bytes(MAX_WEIGHT)} may be; offer shorter lists of options",
            )
            return None
        self._weight += weight
        return node.plain()

    def _leave_out(self, name: str, reason: str) -> None:
        if len(self.left_out) < MAX_NODES:
            self.left_out[safe_text(name, 256)] = safe_text(reason, 2_000, newlines=True)

    def _note_defaults(self, node: NodeDescription) -> None:
        for name in unknown_defaults(node.info):
            if len(self.notes) < _MAX_NOTES:
                self.notes.append(
                    f"node '{safe_text(node.class_type, 120)}': the default of input '{safe_text(name, 120)}' is not "
                    f"among its options; a prompt that keeps it is refused"
                )


def flaw(class_type: str, info: Mapping[str, Any]) -> str | None:
    """What is wrong with a node's entry for ``/object_info``; None when nothing is."""
    if any(unicodedata.category(character) == "Cc" for character in class_type):
        return "its name has control characters in it"
    if info.get("name") != class_type:
        return f"its description calls it {safe_text(str(info.get('name')), 120)!r}"
    for key, limit in (("display_name", _LABEL), ("category", _LABEL), ("description", _PROSE)):
        text = info.get(key)
        if text is not None and not isinstance(text, str):
            return f"its {key} is no text"
        if isinstance(text, str) and len(text) > limit:
            return f"its {key} has {len(text)} characters, at most {limit} may be"
    return _inputs_flaw(info.get("input")) or _outputs_flaw(info)


def _inputs_flaw(sections: Any) -> str | None:
    if not isinstance(sections, dict):
        return "its inputs are no object"
    count = 0
    for key in _SECTIONS:
        section = sections.get(key, {})
        if not isinstance(section, dict):
            return f"its {key} inputs are no object"
        count += len(section)
        if count > MAX_INPUTS:
            return f"it has more than {MAX_INPUTS} inputs"
        for name, declaration in section.items():
            if not 0 < len(name) <= 256:
                return f"the name of a {key} input has {len(name)} characters, 1 to 256 may be"
            if key != "hidden" and (reason := _declaration_flaw(declaration)):
                return f"{key} input {safe_text(name, 120)!r} {reason}"
    return None


def _declaration_flaw(declaration: Any) -> str | None:
    if isinstance(declaration, list):
        if not declaration:
            return "has no type"
        kind = declaration[0]
    else:
        kind = declaration
    if isinstance(kind, dict):
        return "has an object for its type; it must be text or a list of options"
    if isinstance(kind, str) and len(kind) > MAX_TYPE:
        return f"has a type of {len(kind)} characters, at most {MAX_TYPE} may be"
    return None


def _outputs_flaw(info: Mapping[str, Any]) -> str | None:
    for key in ("output", "output_is_list", "output_name"):
        items = info.get(key)
        if not isinstance(items, list):
            return f"its {key} is no list"
        if len(items) > MAX_OUTPUTS:
            return f"its {key} has {len(items)} entries, at most {MAX_OUTPUTS} may be"
    for slot, kind in enumerate(info["output"]):
        if isinstance(kind, dict) or (isinstance(kind, str) and len(kind) > MAX_TYPE):
            return f"output {slot} has no type: that is text of at most {MAX_TYPE} characters or a list of options"
    if not all(type(flag) is bool for flag in info["output_is_list"]):
        return "its output_is_list has something else than true and false in it"
    return None


def _mismatch(node: _Node) -> str | None:
    """What the engine is told besides must fit what clients are shown."""
    outputs = len(node.info["output"])
    beyond = [slot for slot in node.any_outputs if slot >= outputs]
    if beyond:
        return f"it says that output {beyond[0]} takes any type, and has {outputs}"
    if bool(node.info.get("output_node")) != node.output_node:
        return "it is an output node in one place and none in another"
    return None


def unknown_defaults(info: Mapping[str, Any]) -> list[str]:
    """Inputs whose default is not among their options. Packs do that (a file that is missing); ComfyUI lets them."""
    found: list[str] = []
    for key in ("required", "optional"):
        for name, declaration in info["input"].get(key, {}).items():
            if (
                not isinstance(declaration, list)
                or len(declaration) < 2
                or not isinstance(declaration[1], dict)
            ):
                continue
            kind, options = declaration[0], declaration[1]
            choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
            if not isinstance(choices, list) or not choices or options.get("default") is None:
                continue
            default = options["default"]
            several = isinstance(default, list) and bool(
                options.get("multiselect") or options.get("multi_select")
            )
            wanted = default if several else [default]
            known = {_key(choice) for choice in choices}
            if any(_key(item) not in known for item in wanted):
                found.append(name)
    return found


def _key(option: Any) -> str:
    """What equal options have in common. A text: numbers of a stranger's choice can be made to share one hash."""
    if isinstance(option, str):
        return f"'{option}"
    if isinstance(option, list | dict):
        return ""  # not looked into
    is_whole = isinstance(option, bool) or (isinstance(option, float) and option.is_integer())
    return repr(int(option) if is_whole else option)
