"""``io``: everything a V3 node declares itself with. The parts are in ``_types, _dynamic, _schema, _node``."""

from ..internal import (  # noqa: F401 - packs reach for them here
    _ComfyNodeInternal,
    _NodeOutputInternal,
    classproperty,
    copy_class,
    first_real_override,
    is_class,
    lock_class,
    prune_dict,
    shallow_clone_class,
)
from ._dynamic import Autogrow, DynamicCombo, DynamicInput, DynamicOutput, DynamicSlot, MatchType
from ._input import VideoInput  # noqa: F401
from ._node import ComfyNode, NodeOutput, _ComfyNodeBaseInternal
from ._resources import ResourceKey, Resources, ResourcesLocal, TorchDictFolderFilename
from ._schema import (
    Hidden,
    HiddenHolder,
    NodeInfoV1,
    NodeReplace,
    PriceBadge,
    PriceBadgeDepends,
    Schema,
    V3Data,
    add_to_dict_v1,
)
from ._state import NodeState, NodeStateLocal
from ._types import *  # noqa: F403
from ._types import ComfyTypeI, ComfyTypeIO, Custom, _ComfyType, comfytype

NodeInfoV3 = NodeInfoV1
add_to_dict_v3 = add_to_dict_v1

__all__ = [
    "Autogrow",
    "ComfyNode",
    "ComfyTypeI",
    "ComfyTypeIO",
    "Custom",
    "DynamicCombo",
    "DynamicInput",
    "DynamicOutput",
    "DynamicSlot",
    "Hidden",
    "HiddenHolder",
    "MatchType",
    "NodeInfoV1",
    "NodeInfoV3",
    "NodeOutput",
    "NodeReplace",
    "NodeState",
    "NodeStateLocal",
    "PriceBadge",
    "PriceBadgeDepends",
    "ResourceKey",
    "Resources",
    "ResourcesLocal",
    "Schema",
    "TorchDictFolderFilename",
    "V3Data",
    "_ComfyNodeBaseInternal",
    "_ComfyType",
    "add_to_dict_v1",
    "add_to_dict_v3",
    "comfytype",
    "prune_dict",
]
