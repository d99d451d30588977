"""Which links would carry a live Python object, as far as types tell: such a link must not leave its sandbox.

Known are ComfyUI's types that are nothing but objects, and a pack's types that were objects whenever they were seen.
What has ever been plain data is never held against a prompt, and neither is the any-type: those are found out when they
run. Pure but for what it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.constraints import NodeError, node_error
from engine.dynamic_inputs import InputDeclaration
from engine.prompt import as_link
from engine.registry import NodeType
from engine.values import group_advice
from policies import SandboxId, TenantId, safe_text
from sandbox.calls import NodeDescription, Value

JSON = Any

ERROR_TYPE: Final = "live_object_crosses_sandboxes"

#: Nothing but objects in ComfyUI itself and in every pack that keeps to its types.
OBJECT_TYPES: Final = frozenset(
    {"MODEL", "CLIP", "VAE", "CONTROL_NET", "CLIP_VISION", "STYLE_MODEL", "GLIGEN", "UPSCALE_MODEL"}
    | {"SAMPLER", "GUIDER", "NOISE"}
)
#: Plain data or tensors as a rule; an object in one of them says nothing about the next value.
_NEVER: Final = frozenset(
    {"*", "INT", "FLOAT", "STRING", "BOOLEAN", "NUMBER", "COMBO", "IMAGE", "MASK", "LATENT", "CONDITIONING"}
    | {"AUDIO", "VIDEO", "SIGMAS", "DICT", "LIST", "JSON", "ANY"}
)
#: Outputs that no object comes out of.
_PLAIN: Final = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "NUMBER", "COMBO", "IMAGE", "MASK", "LATENT"})
_ANY_TYPES: Final = frozenset({"*", "ANY", "COMFY_MATCHTYPE_V3"})
_MOST_KNOWN: Final = 10_000

_Key = tuple[TenantId, str, str, str]


class LiveTypes:
    """What this engine has seen of its packs' types."""

    def __init__(self) -> None:
        self._was_object: dict[_Key, bool] = {}

    def note(
        self,
        tenant: TenantId,
        node_type: NodeType,
        slots: Sequence[Sequence[Value]],
        *,
        made_in: SandboxId | None,
    ) -> None:
        """Learn from a node's result. ``made_in``: its sandbox; None for what came out of an expansion, which may be
        some other extension's object, as is what was only handed on."""
        outputs = node_type.description.info.get("output")
        if not isinstance(outputs, list | tuple):
            return
        for index, (declared, values) in enumerate(zip(outputs, slots, strict=False)):
            if not _may_learn(declared) or index in node_type.description.any_outputs:
                continue
            key = _key(tenant, node_type, declared)
            for value in values:
                if value.tree is None or value.is_blocker:
                    continue
                own = made_in is not None and all(sandbox == made_in for sandbox, _ in value.handles)
                was_object = own and _is_handle(value.tree)
                # When full, a new type is one that nothing is known of; ComfyUI's own count as objects till seen.
                is_exempt = not was_object and declared in OBJECT_TYPES
                if key in self._was_object or is_exempt or len(self._was_object) < _MOST_KNOWN:
                    self._was_object[key] = was_object and self._was_object.get(key, True)

    def is_object(self, tenant: TenantId, node_type: NodeType, slot: int) -> bool:
        """Whether this output is known to be a live object."""
        outputs = node_type.description.info.get("output")
        if not isinstance(outputs, list | tuple) or not 0 <= slot < len(outputs):
            return False
        declared = outputs[slot]
        if not isinstance(declared, str) or slot in node_type.description.any_outputs:
            return False
        unseen = declared in OBJECT_TYPES and not node_type.description.enable_expand
        return self._was_object.get(_key(tenant, node_type, declared), unseen)


class Borders:
    """Looks at the links of one prompt."""

    def __init__(self, tenant: TenantId, live: LiveTypes) -> None:
        self._tenant = tenant
        self._live = live

    def refuse(
        self,
        declaration: InputDeclaration,
        link: list[JSON],
        source: tuple[Mapping[str, JSON], NodeType],
        reader: NodeType,
    ) -> NodeError | None:
        """The error of an input whose object could not reach it; None when it could, or when nobody knows."""
        entry, maker = source
        name, (node_id, slot) = declaration.name, link
        description = reader.description
        top = name.partition(".")[0]
        if _unit(maker) == _unit(reader) or not self._live.is_object(self._tenant, maker, slot):
            return None
        if {name, top} & (description.raw_link | description.lazy):
            return None  # perhaps never carried
        is_any = bool({name, top} & description.any_inputs) or declaration.type in _ANY_TYPES
        if is_any and can_hand_on(description):
            return None  # perhaps only handed on
        if _may_hand_on(entry, maker):
            return None  # perhaps the reader's own
        kind = safe_text(maker.description.info["output"][slot], 80)
        made = f"node '{safe_text(node_id, 80)}' ({safe_text(str(entry.get('class_type')), 80)})"
        return node_error(
            ERROR_TYPE,
            "A live object cannot leave its sandbox",
            f"{name}: the {kind} of {made} is a live object of extension '{maker.extension}', and extension "
            f"'{reader.extension}' runs in another sandbox; "
            + group_advice(maker.extension, reader.extension, maker.group, reader.group),
            input_name=name,
            received_type=kind,
            linked_node=link,
            extensions=[maker.extension, reader.extension],
        )


def can_hand_on(description: NodeDescription) -> bool:
    """Whether a node may give back an object that it was given: it has an output for one, or adds nodes."""
    outputs = description.info.get("output")
    return (
        description.enable_expand
        or bool(description.any_outputs)
        or any(
            isinstance(kind, str) and kind not in _PLAIN
            for kind in (outputs if isinstance(outputs, list | tuple) else ())
        )
    )


def _may_hand_on(entry: Mapping[str, JSON], node_type: NodeType) -> bool:
    """Whether a node may return what somebody else's node gave it: it has a link at an input of any type."""
    description = node_type.description
    inputs, sections = entry.get("inputs"), description.info.get("input")
    declared: dict[str, JSON] = {}
    for section in sections.values() if isinstance(sections, Mapping) else ():
        declared.update(section if isinstance(section, Mapping) else {})
    for name, value in inputs.items() if isinstance(inputs, Mapping) else ():
        if as_link(value) is None:
            continue
        top = name.partition(".")[0]
        spec = declared.get(name, declared.get(top))
        kind = spec[0] if isinstance(spec, list | tuple) and spec else None
        if (
            spec is None
            or {name, top} & description.any_inputs
            or (isinstance(kind, str) and kind in _ANY_TYPES)
        ):
            return True
    return False


def _unit(node_type: NodeType) -> tuple[str, str]:
    return ("group", node_type.group) if node_type.group else ("extension", node_type.extension)


def _key(tenant: TenantId, node_type: NodeType, declared: str) -> _Key:
    return (tenant, node_type.extension, node_type.version, declared)


def _may_learn(declared: JSON) -> bool:
    return isinstance(declared, str) and declared.upper() not in _NEVER and "," not in declared


def _is_handle(tree: JSON) -> bool:
    return isinstance(tree, dict) and len(tree) == 1 and "$handle" in tree
