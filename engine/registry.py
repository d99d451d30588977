"""Node types as the engine sees them: which class an extension offers, and the catalogue that clients read.

``NodeTypes`` is the seam to ``extensions.py`` (which keeps descriptions by tenant) and ``ObjectInfo`` the assembly of
ComfyUI's ``/object_info``. Nothing here starts a sandbox.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.dynamic_inputs import Declarations
from engine.types import may_be_object
from policies import EffectivePolicy, ExtensionName, TenantId, TenantPath, own_folder
from sandbox.calls import NodeDescription, NodeReplacement

JSON = Any


@dataclass(frozen=True, slots=True)
class NodeType:
    """One node class and the extension that provides it."""

    description: NodeDescription
    extension: ExtensionName
    core: bool = False
    group: str | None = None  # sandbox group by policy: handles may pass between its members
    version: str = ""  # changes with code, environment and image: another version's results are not reused
    private_areas: frozenset[str] = frozenset()
    """Directories in `output` and `temp` that the policy gives the extension with scope `extension` only: the sandbox
    mounts its own folder in each as the whole, so that file names that it reports lack that folder's name."""

    replaces: tuple[NodeReplacement, ...] = ()
    """Old classes whose nodes may become nodes of this one."""
    inputs: Declarations = field(init=False, repr=False, compare=False)
    """What its instances declare."""
    outputs: Sequence[JSON] = field(init=False, repr=False, compare=False)
    """The types of its outputs, as it declares them."""
    perhaps_objects: Sequence[tuple[int, str]] = field(init=False, repr=False, compare=False)
    """Place and type of the outputs that may turn out to be live objects."""
    repeats_ui: bool = field(init=False, repr=False, compare=False)
    """Whether what it has to show is shown again by a prompt that did not need it."""

    def __post_init__(self) -> None:
        info, are_any = self.description.info, self.description.any_outputs
        declared = info.get("output")
        outputs = tuple(declared) if isinstance(declared, (list, tuple)) else ()
        object.__setattr__(self, "inputs", Declarations(info.get("input")))
        object.__setattr__(self, "outputs", outputs)
        object.__setattr__(self, "repeats_ui", bool(info.get("has_intermediate_output")))
        object.__setattr__(
            self,
            "perhaps_objects",
            tuple(
                (place, kind)
                for place, kind in enumerate(outputs)
                if type(kind) is str and place not in are_any and may_be_object(kind)
            ),
        )

    @property
    def class_type(self) -> str:
        """The name prompts use."""
        return self.description.class_type

    @property
    def own_folder(self) -> str:
        """What its own folder in a private area is called."""
        return own_folder(self.extension, self.group)


class NodeTypes(Protocol):
    """Lookup of node types by tenant; ``extensions.ExtensionRegistry`` fulfils it."""

    async def node_types(self, tenant: TenantId) -> Mapping[str, NodeType]:
        """Everything the tenant's extensions offer, as last described. Cheap: no call to a worker."""

    async def refresh(self, tenant: TenantId, class_types: Collection[str] | None) -> Mapping[str, NodeType]:
        """Ask the workers for the declarations anew (file lists are live) and return all node types.

        None: every class. An extension whose sandbox fails keeps its last description; this never raises for it.
        """

    def is_current(self, tenant: TenantId, class_types: Collection[str]) -> bool:
        """Whether ``make_current`` has nothing to wait for."""

    async def make_current(self, tenant: TenantId, class_types: Collection[str]) -> None:
        """Wait until what is known of these classes is of today's image and policies.

        Raises:
            RingfenceError: an extension of them cannot be brought up to date.
        """


def private_areas(policy: EffectivePolicy) -> frozenset[str]:
    """``NodeType.private_areas`` of an extension with this policy."""
    return frozenset(
        entry.tenant
        for entry in policy.paths
        if isinstance(entry, TenantPath) and entry.scope == "extension" and entry.area in ("output", "temp")
    )


def object_info_entry(node: NodeType) -> dict[str, JSON]:
    """ComfyUI's description of one class, ``python_module`` included."""
    module = "nodes" if node.core else f"custom_nodes.{node.extension}"
    return {**node.description.info, "python_module": module}


def object_info(types: Mapping[str, NodeType], class_type: str | None = None) -> dict[str, JSON]:
    """The answer of ``/object_info``: every class, or one, or nothing when that one is unknown."""
    if class_type is not None:
        node = types.get(class_type)
        return {} if node is None else {class_type: object_info_entry(node)}
    return {name: object_info_entry(node) for name, node in types.items()}
