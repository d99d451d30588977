"""V3 inputs whose number and names depend on other inputs. Declarations only.

The worker reads the templates out of the serialised declaration, and hands a node its nested dicts
(``runtime/dynamic.py``).
"""

# ruff: noqa: TRY004 - ComfyUI raises ValueError for these
from __future__ import annotations

from typing import Any

from ._types import AnyType, ComfyTypeI, ComfyTypeIO, Input, Output, WidgetInput, _ComfyType, comfytype

_MAX_NAMES = 100
_AnyInput = Input  # by another name, because the classes below hold one called Input


def serialise(inputs: list[Input]) -> dict[str, Any]:
    """The ``required`` and ``optional`` sections for a list of inputs; ``required`` is always there."""
    sections: dict[str, Any] = {"required": {}}
    for item in inputs:
        section = sections.setdefault("optional" if item.optional else "required", {})
        section[item.id] = (item.get_io_type(), item.as_dict())
    return sections


class DynamicInput(Input):
    """Base of the inputs that stand for others."""

    def get_dynamic(self) -> list[Input]:
        """The inputs inside."""
        return []

    def get_all(self) -> list[Input]:
        return [self, *self.get_dynamic()]


class DynamicOutput(Output):
    """Base of outputs whose type follows from the inputs."""


@comfytype("COMFY_MATCHTYPE_V3")
class MatchType(ComfyTypeIO):
    """Inputs and outputs that must all have the same type, whichever it is."""

    class Template:
        def __init__(self, template_id: str, allowed_types: Any = AnyType) -> None:
            kinds = list(allowed_types) if isinstance(allowed_types, (list, tuple, set)) else [allowed_types]
            for kind in kinds:
                if not (isinstance(kind, type) and issubclass(kind, _ComfyType)):
                    raise ValueError(f"MatchType template {template_id!r}: {kind!r} is not an io type")
            self.template_id = template_id
            self.allowed_types = kinds

        def as_dict(self) -> dict[str, Any]:
            return {
                "template_id": self.template_id,
                "allowed_types": ",".join(str(kind.io_type) for kind in self.allowed_types),
            }

    class Input(_AnyInput):
        def __init__(
            self,
            id: str,
            template: Any,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
            self.template = template

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"template": self.template.as_dict()}

    class Output(DynamicOutput):
        def __init__(
            self,
            template: Any,
            id: str | None = None,
            display_name: str | None = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
        ) -> None:
            super().__init__(id, display_name or (None if id else "MATCHTYPE"), tooltip, is_output_list)
            self.template = template

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"template": self.template.as_dict()}


@comfytype("COMFY_AUTOGROW_V3")
class Autogrow(ComfyTypeI):
    """As many inputs of one kind as are connected, up to a limit."""

    Type = dict

    class _Template:
        def __init__(self, input: Input) -> None:
            if isinstance(input, DynamicInput):
                raise ValueError("the template of an Autogrow input must not be dynamic itself")
            if isinstance(input, WidgetInput):
                input.force_input = True
            self.input = input

        def as_dict(self) -> dict[str, Any]:
            return {"input": serialise([self.input])}

    class TemplatePrefix(_Template):
        """Inputs called ``<prefix>0``, ``<prefix>1`` ..."""

        def __init__(self, input: Input, prefix: str, min: int = 1, max: int = 10) -> None:
            super().__init__(input)
            if min < 0 or not 1 <= max <= _MAX_NAMES:
                raise ValueError(
                    f"Autogrow: min must be at least 0 and max 1 to {_MAX_NAMES}, not {min} and {max}"
                )
            self.prefix = prefix
            self.min = min
            self.max = max
            self.names = [f"{prefix}{index}" for index in range(max)]

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {name: getattr(self, name) for name in ("prefix", "min", "max")}

    class TemplateNames(_Template):
        """Inputs with these names."""

        def __init__(self, input: Input, names: list[str], min: int = 1) -> None:
            super().__init__(input)
            if min < 0:
                raise ValueError(f"Autogrow: min must be at least 0, not {min}")
            self.names = list(names)[:_MAX_NAMES]
            self.min = min

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"names": self.names, "min": self.min}

    class Input(DynamicInput):
        def __init__(
            self,
            id: str,
            template: Any,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
            self.template = template

        def get_dynamic(self) -> list[Input]:
            return [self.template.input]

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"template": self.template.as_dict()}


@comfytype("COMFY_DYNAMICCOMBO_V3")
class DynamicCombo(ComfyTypeI):
    """A choice that decides which further inputs there are."""

    Type = dict

    class Option:
        def __init__(self, key: str, inputs: list[Input]) -> None:
            self.key = key
            self.inputs = inputs

        def as_dict(self) -> dict[str, Any]:
            return {"key": self.key, "inputs": serialise(self.inputs)}

    class Input(DynamicInput):
        def __init__(
            self,
            id: str,
            options: list[Any],
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
            self.options = options

        def get_dynamic(self) -> list[Input]:
            return [item for option in self.options for item in option.inputs]

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"options": [option.as_dict() for option in self.options]}


@comfytype("COMFY_DYNAMICSLOT_V3")
class DynamicSlot(ComfyTypeI):
    """A socket that reveals further inputs when it is connected."""

    Type = dict

    class Input(DynamicInput):
        def __init__(
            self,
            slot: Input,
            inputs: list[Input],
            display_name: str | None = None,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            if isinstance(slot, DynamicInput):
                raise ValueError("the slot of a DynamicSlot must not be dynamic itself")
            super().__init__(
                slot.id,
                display_name or slot.display_name,
                True,
                tooltip or slot.tooltip,
                slot.lazy if lazy is None else lazy,
                extra_dict,
                raw_link,
                advanced,
            )
            self.slot = slot
            self.inputs = inputs
            self.force_input: bool | None = True if isinstance(slot, WidgetInput) else None

        def get_dynamic(self) -> list[Input]:
            return [self.slot, *self.inputs]

        def as_dict(self) -> dict[str, Any]:
            forced = {"forceInput": True} if self.force_input else {}
            kind = str(self.slot.get_io_type())
            return super().as_dict() | {"slotType": kind, "inputs": serialise(self.inputs), **forced}
