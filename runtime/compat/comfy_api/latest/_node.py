"""``ComfyNode``, the base class of V3 nodes, and ``NodeOutput``, what they return."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import asdict
from typing import Any

from ....blocker import ExecutionBlocker
from ..internal import (
    _ComfyNodeInternal,
    _NodeOutputInternal,
    classproperty,
    first_real_override,
    lock_class,
    shallow_clone_class,
)
from ._resources import Resources
from ._schema import HiddenHolder, Schema
from ._state import NodeState


class NodeOutput(_NodeOutputInternal):
    """Values for the outputs, something for the screen, a graph to expand into, or a block."""

    def __init__(
        self, *args: Any, ui: Any = None, expand: Any = None, block_execution: str | None = None
    ) -> None:
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The values; None when there are none."""
        return self.args or None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NodeOutput:
        """From what a V1 node returns."""
        values: Any = data.get("result", ())
        if isinstance(values, ExecutionBlocker):
            return cls(ui=data.get("ui"), expand=data.get("expand"), block_execution=values.message)
        return cls(*(values or ()), ui=data.get("ui"), expand=data.get("expand"))

    def __getitem__(self, index: Any) -> Any:
        return self.args[index]


_SCHEMA_KEY = "_ringfence_schema"


class _ComfyNodeBaseInternal(_ComfyNodeInternal):
    """What a V3 class has without declaring it: the V1 attributes, and how it is run."""

    RELATIVE_PYTHON_MODULE: Any = None
    SCHEMA: Any = None
    hidden: Any = None
    state: Any = NodeState()
    """What this node instance keeps, whichever sandbox it runs in."""
    resources: Any = Resources()
    """Files that the host reads once for all sandboxes."""
    local_state: Any = state
    local_resources: Any = resources

    # -- for authors -----------------------------------------------------------------------------------------------
    @classmethod
    def define_schema(cls) -> Schema:
        """Declare the node."""
        raise NotImplementedError(f"{cls.__name__} does not define define_schema")

    @classmethod
    def execute(cls, **kwargs: Any) -> Any:
        """Run the node."""
        raise NotImplementedError(f"{cls.__name__} does not define execute")

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool | str:
        """Check constant inputs. Not called unless overridden."""
        raise NotImplementedError(f"{cls.__name__} does not define validate_inputs")

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> Any:
        """Say what the result depends on besides the inputs. Not called unless overridden."""
        raise NotImplementedError(f"{cls.__name__} does not define fingerprint_inputs")

    @classmethod
    def check_lazy_status(cls, **kwargs: Any) -> list[str]:
        """Name the lazy inputs that are needed. Not called unless overridden."""
        return [name for name, value in kwargs.items() if value is None]

    # -- for the worker --------------------------------------------------------------------------------------------
    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The declaration, made anew, filled in and checked.

        Raises:
            ValueError: it is not valid.
        """
        cls.VALIDATE_CLASS()
        schema = cls.FINALIZE_SCHEMA()
        schema.validate()
        return schema

    @classmethod
    def FINALIZE_SCHEMA(cls) -> Schema:
        schema = _definition(cls)()
        if not isinstance(schema, Schema):
            raise TypeError(
                f"{cls.__name__}.define_schema returned {type(schema).__name__}; it must return io.Schema"
            )
        schema.finalize()
        return schema

    @classmethod
    def VALIDATE_CLASS(cls) -> None:
        """Check that the class has what every V3 node must have.

        Raises:
            NotImplementedError: it has not.
        """
        if first_real_override(cls, "execute", base=_ComfyNodeBaseInternal) is None:
            raise NotImplementedError(f"{cls.__name__} does not define execute")
        _definition(cls)

    @classmethod
    def GET_BASE_CLASS(cls) -> type:
        return _ComfyNodeBaseInternal

    @classmethod
    def PREPARE_CLASS_CLONE(cls, hidden_inputs: Any = None) -> Any:
        """A locked copy of the class for one call, with the hidden values on it.

        ``hidden_inputs``: token or name -> value, or ComfyUI's ``{"hidden_inputs": {...}}``.
        """
        if isinstance(hidden_inputs, dict) and "hidden_inputs" in hidden_inputs:
            hidden_inputs = hidden_inputs["hidden_inputs"]
        clone: Any = shallow_clone_class(cls)
        clone.hidden = HiddenHolder.from_dict(hidden_inputs)
        return lock_class(clone)

    @classmethod
    def EXECUTE_NORMALIZED(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        """Run the node; whatever it returns becomes a ``NodeOutput``.

        Raises:
            TypeError: it returned something else.
        """
        return cls._normalized(cls.execute(*args, **kwargs))

    @classmethod
    async def EXECUTE_NORMALIZED_ASYNC(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        """As ``EXECUTE_NORMALIZED``, for coroutine functions.

        Raises:
            TypeError: the node returned something else.
        """
        returned = cls.execute(*args, **kwargs)
        return cls._normalized(await returned if inspect.isawaitable(returned) else returned)

    @classmethod
    def _normalized(cls, returned: Any) -> NodeOutput:
        match returned:
            case NodeOutput():
                output = returned
            case ExecutionBlocker():
                output = NodeOutput(block_execution=returned.message)
            case dict():
                output = NodeOutput.from_dict(returned)
            case tuple() | None:
                output = NodeOutput(*(returned or ()))
            case _:
                raise TypeError(
                    f"{cls.__name__}.execute returned {type(returned).__name__}; it must return io.NodeOutput, "
                    "a tuple, a dict or None"
                )
        if output.expand is not None and not _kept_schema(cls).enable_expand:
            raise ValueError(
                f"{cls.__name__} expanded into a graph, but its schema does not say enable_expand=True"
            )
        return output

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """The node's entry in ``/object_info``."""
        return asdict(cls.GET_SCHEMA().get_v1_info(cls))

    GET_NODE_INFO_V3 = GET_NODE_INFO_V1

    @classmethod
    def INPUT_TYPES(cls, include_hidden: bool = True, return_schema: bool = False) -> Any:
        """The inputs in V1's form, from a declaration made anew."""
        schema = cls.FINALIZE_SCHEMA()
        sections = schema.input_types()
        if not include_hidden:
            sections.pop("hidden", None)
        return (sections, schema) if return_schema else sections

    # -- V1's attributes -------------------------------------------------------------------------------------------
    @classproperty
    def FUNCTION(cls) -> str:
        run = getattr(cls, "execute", None)
        return "EXECUTE_NORMALIZED_ASYNC" if inspect.iscoroutinefunction(run) else "EXECUTE_NORMALIZED"

    @classproperty
    def RETURN_TYPES(cls) -> list[str]:
        return [output.io_type for output in _kept_schema(cls).outputs]

    @classproperty
    def RETURN_NAMES(cls) -> list[str]:
        return _kept_schema(cls).return_names()

    @classproperty
    def OUTPUT_IS_LIST(cls) -> list[bool]:
        return [output.is_output_list for output in _kept_schema(cls).outputs]

    @classproperty
    def OUTPUT_TOOLTIPS(cls) -> list[str | None]:
        return [output.tooltip for output in _kept_schema(cls).outputs]

    @classproperty
    def CATEGORY(cls) -> str:
        return _kept_schema(cls).category

    @classproperty
    def DESCRIPTION(cls) -> str:
        return _kept_schema(cls).description

    @classproperty
    def OUTPUT_NODE(cls) -> bool:
        return _kept_schema(cls).is_output_node

    @classproperty
    def INPUT_IS_LIST(cls) -> bool:
        return _kept_schema(cls).is_input_list

    @classproperty
    def DEPRECATED(cls) -> bool:
        return _kept_schema(cls).is_deprecated

    @classproperty
    def EXPERIMENTAL(cls) -> bool:
        return _kept_schema(cls).is_experimental

    @classproperty
    def DEV_ONLY(cls) -> bool:
        return _kept_schema(cls).is_dev_only

    @classproperty
    def API_NODE(cls) -> bool:
        return _kept_schema(cls).is_api_node

    @classproperty
    def NOT_IDEMPOTENT(cls) -> bool:
        return _kept_schema(cls).not_idempotent

    @classproperty
    def ACCEPT_ALL_INPUTS(cls) -> bool:
        return _kept_schema(cls).accept_all_inputs

    @classproperty
    def HAS_INTERMEDIATE_OUTPUT(cls) -> bool:
        return _kept_schema(cls).has_intermediate_output


def _definition(cls: Any) -> Any:
    """The class's declaring method, under today's name or that of the early drafts."""
    for name in ("define_schema", "DEFINE_SCHEMA"):
        own = first_real_override(cls, name, base=_ComfyNodeBaseInternal)
        if own is not None:
            return own
    raise NotImplementedError(f"{cls.__name__} does not define define_schema")


def _kept_schema(cls: Any) -> Schema:
    """The declaration as of the first time it was asked for: V1's attributes do not change."""
    kept = cls.__dict__.get(_SCHEMA_KEY)
    if kept is None:
        for ancestor in cls.__mro__[1:]:
            kept = ancestor.__dict__.get(_SCHEMA_KEY)
            # A clone's own class object has no declaration of its own.
            if kept is not None and _definition(ancestor).__func__ is _definition(cls).__func__:
                return kept
        kept = cls.FINALIZE_SCHEMA()
        with contextlib.suppress(AttributeError):  # a locked clone keeps nothing
            setattr(cls, _SCHEMA_KEY, kept)
    return kept


class ComfyNode(_ComfyNodeBaseInternal):
    """Base class of V3 nodes."""
