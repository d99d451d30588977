"""What a V3 node says of itself: ``Schema``, the hidden inputs, the description that clients get."""

# ruff: noqa: UP042 - packs rely on how (str, Enum) prints
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from ._dynamic import DynamicInput, MatchType
from ._types import Input, Output


class Hidden(str, Enum):
    """Values that a node can ask for without an input; they appear on ``cls.hidden``."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"  # noqa: S105 - the name of an input
    api_key_comfy_org = "API_KEY_COMFY_ORG"
    comfy_usage_source = "COMFY_USAGE_SOURCE"


class HiddenHolder:
    """``cls.hidden``: what was asked for and is known; any other name is None."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update({member.name: values.pop(member.name, None) for member in Hidden})
        self.__dict__.update(values)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        return None

    @classmethod
    def from_dict(cls, d: Any) -> HiddenHolder:
        """From values keyed by token (``"UNIQUE_ID"``), by name (``"unique_id"``) or by ``Hidden`` member."""
        names = {member.value: member.name for member in Hidden}
        values = {}
        for key, value in (d or {}).items():
            text = str(key.value if isinstance(key, Enum) else key)
            values[names.get(text, text.lower())] = value
        return cls(**values)

    @classmethod
    def from_v3_data(cls, v3_data: Any) -> HiddenHolder:
        return cls.from_dict((v3_data or {}).get("hidden_inputs"))


@dataclass
class PriceBadgeDepends:
    """What the price shown on a node depends on."""

    widgets: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    input_groups: list[str] = field(default_factory=list)

    def validate(self) -> None:
        for name in ("widgets", "inputs", "input_groups"):
            values = getattr(self, name)
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise ValueError(f"price badge: depends_on.{name} must be a list of strings")

    def as_dict(self, schema_inputs: list[Input]) -> dict[str, Any]:
        types = {item.id: item.get_io_type() for group in schema_inputs for item in group.get_all()}
        unknown = [name for name in self.widgets if name.split(".")[-1] not in types and name not in types]
        if unknown:
            raise ValueError(f"price badge: no such widget: {', '.join(unknown)}")
        widgets = [
            {"name": name, "type": types.get(name, types.get(name.split(".")[-1]))} for name in self.widgets
        ]
        return {"widgets": widgets, "inputs": self.inputs, "input_groups": self.input_groups}


@dataclass
class PriceBadge:
    """How to compute the price shown on a node, in JSONata."""

    expr: str
    depends_on: PriceBadgeDepends = field(default_factory=PriceBadgeDepends)
    engine: str = "jsonata"

    def validate(self) -> None:
        self.depends_on.validate()
        code = self.expr.strip() if isinstance(self.expr, str) else ""
        if not code:
            raise ValueError("price badge: expr must be a non-empty text")
        if self.engine != "jsonata":
            raise ValueError(f"price badge: engine must be 'jsonata', not {self.engine!r}")

    def as_dict(self, schema_inputs: list[Input]) -> dict[str, Any]:
        depends_on = self.depends_on.as_dict(schema_inputs)
        return {"expr": self.expr, "engine": self.engine, "depends_on": depends_on}


@dataclass
class NodeInfoV1:
    """A node's entry in ``/object_info``."""

    input: dict[str, Any] | None = None
    input_order: dict[str, list[str]] | None = None
    is_input_list: bool | None = None
    output: list[Any] | None = None
    output_is_list: list[bool] | None = None
    output_name: list[Any] | None = None
    output_tooltips: list[str | None] | None = None
    output_matchtypes: list[str | None] | None = None
    name: str | None = None
    display_name: str | None = None
    description: str | None = None
    python_module: Any = None
    category: str | None = None
    output_node: bool | None = None
    deprecated: bool | None = None
    experimental: bool | None = None
    dev_only: bool | None = None
    api_node: bool | None = None
    price_badge: dict[str, Any] | None = None
    search_aliases: list[str] | None = None
    essentials_category: str | None = None
    has_intermediate_output: bool | None = None


@dataclass
class Schema:
    """A V3 node's declaration."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False
    search_aliases: list[str] = field(default_factory=list)
    is_dev_only: bool = False
    price_badge: PriceBadge | None = None
    accept_all_inputs: bool = False
    essentials_category: str | None = None
    has_intermediate_output: bool = False

    def __post_init__(self) -> None:
        # None is what packs pass for "nothing"; lists are copied because finalize() adds to them.
        self.inputs = list(self.inputs or [])
        self.outputs = list(self.outputs or [])
        self.hidden = list(self.hidden or [])
        self.search_aliases = list(self.search_aliases or [])

    def finalize(self) -> None:
        """Fill in what follows from the rest: hidden inputs of output and API nodes, ids of outputs."""
        wanted: list[Hidden] = []
        if self.is_api_node:
            wanted += [Hidden.auth_token_comfy_org, Hidden.api_key_comfy_org, Hidden.comfy_usage_source]
        if self.is_output_node:
            wanted += [Hidden.prompt, Hidden.extra_pnginfo]
        self.hidden += [item for item in wanted if item not in self.hidden]
        for index, output in enumerate(self.outputs):
            if output.id is None:
                output.id = f"_{index}_{output.io_type}_"

    def validate(self) -> None:
        """Check the declaration.

        Raises:
            ValueError: two inputs or two outputs share an id, or a part is not valid.
        """
        _unique(
            "input", self.node_id, [item.id for item in self.inputs if not isinstance(item, DynamicInput)]
        )
        _unique("output", self.node_id, [str(item.id) for item in self.outputs if item.id is not None])
        for item in [*self.inputs, *self.outputs]:
            item.validate()
        if self.price_badge is not None:
            self.price_badge.validate()

    def input_types(self) -> dict[str, Any]:
        """The V1 form of the inputs."""
        sections: dict[str, Any] = {"required": {}}
        for item in self.inputs:
            section = sections.setdefault("optional" if item.optional else "required", {})
            section[item.id] = (item.get_io_type(), item.as_dict())
        if self.hidden:
            sections["hidden"] = {item.name: (item.value,) for item in self.hidden}
        return sections

    def return_names(self) -> list[str]:
        shown = []
        for output in self.outputs:
            generated = output.id is not None and output.id.startswith("_") and output.id.endswith("_")
            shown.append(
                output.display_name or (output.id if output.id and not generated else output.io_type)
            )
        return shown

    def get_v1_info(self, cls: Any) -> NodeInfoV1:
        sections = self.input_types()
        matches = [
            item.template.template_id if isinstance(item, MatchType.Output) else None for item in self.outputs
        ]
        return NodeInfoV1(
            input=sections,
            input_order={key: list(value) for key, value in sections.items()},
            is_input_list=self.is_input_list,
            output=[item.io_type for item in self.outputs],
            output_is_list=[item.is_output_list for item in self.outputs],
            output_name=self.return_names(),
            output_tooltips=[item.tooltip for item in self.outputs],
            output_matchtypes=matches if any(matches) else None,
            name=self.node_id,
            display_name=self.display_name,
            description=self.description,
            python_module=getattr(cls, "RELATIVE_PYTHON_MODULE", "nodes"),
            category=self.category,
            output_node=self.is_output_node,
            deprecated=self.is_deprecated,
            experimental=self.is_experimental,
            dev_only=self.is_dev_only,
            api_node=self.is_api_node,
            price_badge=None if self.price_badge is None else self.price_badge.as_dict(self.inputs),
            search_aliases=self.search_aliases or None,
            essentials_category=self.essentials_category,
            has_intermediate_output=self.has_intermediate_output,
        )


def _unique(kind: str, node_id: str, ids: list[str]) -> None:
    doubled = sorted({name for name in ids if ids.count(name) > 1})
    if doubled:
        raise ValueError(
            f"node {node_id!r}: {kind} ids must be unique, but {', '.join(doubled)} is used again"
        )


def info_dict(info: NodeInfoV1) -> dict[str, Any]:
    return asdict(info)


class NodeReplace:
    """Says that an old node's place is taken by another."""

    def __init__(
        self,
        new_node_id: str,
        old_node_id: str,
        old_widget_ids: list[str] | None = None,
        input_mapping: list[dict[str, Any]] | None = None,
        output_mapping: list[dict[str, Any]] | None = None,
    ) -> None:
        self.new_node_id = new_node_id
        self.old_node_id = old_node_id
        self.old_widget_ids = old_widget_ids
        self.input_mapping = input_mapping
        self.output_mapping = output_mapping

    def as_dict(self) -> dict[str, Any]:
        mappings = {"input_mapping": self.input_mapping, "output_mapping": self.output_mapping}
        names = {name: getattr(self, name) for name in ("new_node_id", "old_node_id", "old_widget_ids")}
        return names | {name: list(mapping) if mapping else None for name, mapping in mappings.items()}


def add_to_dict_v1(i: Input, d: dict[str, Any]) -> None:
    """Enter an input into V1 sections."""
    section = d.setdefault("optional" if i.optional else "required", {})
    section[i.id] = (i.get_io_type(), i.as_dict())


V3Data = dict[str, Any]
