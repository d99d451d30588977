"""Which links would carry a live Python object, as far as types tell: such a link must not leave its sandbox.

Known are ComfyUI's types that are nothing but objects, and a pack's types that were objects whenever they were seen.
What has ever been plain data is never held against a prompt, and neither is the any-type: those are found out when they
run. Pure but for what it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.carrying import OBJECT_TYPES, can_hand_on, may_come_from, may_take, takes_anything, unit
from engine.constraints import NodeError, node_error
from engine.dynamic_inputs import InputDeclaration
from engine.registry import NodeType
from engine.values import group_advice
from policies import SandboxId, TenantId, Where, safe_text, usual_place
from sandbox.calls import Value

JSON = Any

ERROR_TYPE: Final = "live_object_crosses_sandboxes"

_MOST_KNOWN: Final = 10_000

_Key = tuple[TenantId, str, str, str]


class LiveTypes:
    """What this engine has seen of its packs' types."""

    def __init__(self, where: Where = usual_place) -> None:
        """``where`` says which file of policies is meant, for errors."""
        self.where = where
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
        for place, declared in node_type.perhaps_objects:
            if place >= len(slots):
                return
            key = _key(tenant, node_type, declared)
            for value in slots[place]:
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
        reader: NodeType,
        prompt: Mapping[str, JSON],
        types: Mapping[str, NodeType],
    ) -> NodeError | None:
        """The error of an input whose object could not reach it; None when it could, or when nobody knows."""
        name, (node_id, slot) = declaration.name, link
        entry = prompt[node_id]
        maker = types[entry["class_type"]]
        description = reader.description
        if unit(maker) == unit(reader) or not self._live.is_object(self._tenant, maker, slot):
            return None
        if {name, name.partition(".")[0]} & (description.raw_link | description.lazy):
            return None  # perhaps never carried
        declared = str(maker.description.info["output"][slot])
        is_any = takes_anything(description, name)
        if may_take(description, name) if is_any else can_hand_on(description, declared):
            return None  # perhaps only handed on
        if may_come_from(unit(reader), node_id, declared, prompt, types):
            return None  # perhaps the reader's own
        kind = safe_text(declared, 80)
        made = f"node '{safe_text(node_id, 80)}' ({safe_text(str(entry.get('class_type')), 80)})"
        return node_error(
            ERROR_TYPE,
            "A live object cannot leave its sandbox",
            f"{name}: the {kind} of {made} is a live object of extension '{maker.extension}', and extension "
            f"'{reader.extension}' runs in another sandbox; "
            + group_advice(
                maker.extension,
                reader.extension,
                maker.group,
                reader.group,
                lambda extension: self._live.where(extension, self._tenant),
            ),
            input_name=name,
            received_type=kind,
            linked_node=link,
            extensions=[maker.extension, reader.extension],
        )


def _key(tenant: TenantId, node_type: NodeType, declared: str) -> _Key:
    return (tenant, node_type.extension, node_type.version, declared)


def _is_handle(tree: JSON) -> bool:
    return isinstance(tree, dict) and len(tree) == 1 and "$handle" in tree
