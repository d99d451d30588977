"""Node classes that are functions, and what these functions may take and return."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.registry import NodeType
from policies import ExtensionName
from sandbox.calls import NodeCall, NodeDescription, Progress, Validator
from sandbox.errors import NodeRaisedError

if TYPE_CHECKING:
    from engine.testing.fake_session import FakeSession

JSON = Any


@dataclass(frozen=True, slots=True)
class Blocker:
    """An ExecutionBlocker."""

    message: str | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """Something with bytes in the store."""

    data: Any
    nbytes: int = 1_000


@dataclass(frozen=True, slots=True)
class Live:
    """Something that cannot leave its sandbox."""

    data: Any


@dataclass(frozen=True, slots=True)
class StandIn:
    """An object of another sandbox as a node sees it; handed back, it is the object again."""

    id: int
    text: str = field(default="", compare=False)

    @property
    def data(self) -> Any:
        """Using it is refused, as in a real worker."""
        raise NodeRaisedError(self.text, exception_type="ringfence.HandleNotPortableError")


@dataclass(frozen=True, slots=True)
class Context:
    """For functions with a parameter ``context``."""

    call: NodeCall
    report: Callable[[Progress], None]
    session: FakeSession


@dataclass(frozen=True, slots=True)
class FakeNode:
    """A node class: ``function(**inputs)`` returns a tuple of outputs or a dict with ui, result, expand."""

    class_type: str
    function: Callable[..., Any]
    required: Mapping[str, JSON] = field(default_factory=dict)
    optional: Mapping[str, JSON] = field(default_factory=dict)
    outputs: Sequence[JSON] = ("*",)
    extension: str = "fake"
    group: str | None = None
    output_node: bool = False
    input_is_list: bool = False
    output_is_list: Sequence[bool] = ()
    hidden: Mapping[str, str] = field(default_factory=dict)
    lazy: Collection[str] = ()
    check_lazy: Callable[..., list[str]] | None = None
    fingerprint: Callable[..., Any] | None = None
    validate: Callable[..., Any] | None = None
    not_idempotent: bool = False
    raw_link: Collection[str] = ()
    any_inputs: Collection[str] = ()
    any_outputs: Collection[int] = ()
    api: str = "v1"
    private_areas: Collection[str] = ()
    may_expand: bool = True
    info: Mapping[str, JSON] = field(default_factory=dict)

    def describe(self) -> NodeType:
        """Its description, as a worker would give it."""
        declared = {"required": dict(self.required), "optional": dict(self.optional)}
        info = {
            "input": declared,
            "is_input_list": self.input_is_list,
            "output": list(self.outputs),
            "output_is_list": list(self.output_is_list) or [False] * len(self.outputs),
            "name": self.class_type,
            "output_node": self.output_node,
            **self.info,
        }
        validator = None
        if self.validate is not None:
            parameters = signature_of(self.validate).parameters
            kwargs = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
            names = tuple(name for name, item in parameters.items() if item.kind is not item.VAR_KEYWORD)
            validator = Validator(names, kwargs, "input_types" in names)
        description = NodeDescription(
            class_type=self.class_type,
            info=info,
            api=self.api,
            hidden=self.hidden,
            any_inputs=frozenset(self.any_inputs),
            any_outputs=frozenset(self.any_outputs),
            accepts_any_name=False,
            raw_link=frozenset(self.raw_link),
            lazy=frozenset(self.lazy),
            output_node=self.output_node,
            not_idempotent=self.not_idempotent,
            is_async=inspect.iscoroutinefunction(self.function),
            has_lazy=self.check_lazy is not None,
            has_fingerprint=self.fingerprint is not None,
            validator=validator,
            dynamic=False,
            enable_expand=self.may_expand,
        )
        return NodeType(
            description,
            ExtensionName(self.extension),
            group=self.group,
            private_areas=frozenset(self.private_areas),
        )


@functools.cache
def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)
