"""Validation of a prompt against the declarations of its node classes, in ComfyUI's order and with its errors.

Three steps, none of which recurses: ``Walk`` (pure) looks at every node that a selected output declares to need;
the caller runs the nodes' own validators that the walk asks for (the only part that talks to workers); ``Walk.report``
(pure) puts both together. Rules: execution-semantics §2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from engine.constraints import NodeError, WouldRaiseError, check_constant, node_error, shown
from engine.dynamic_inputs import InputDeclaration
from engine.live_types import Borders
from engine.prompt import as_link, prompt_error
from engine.registry import NodeType
from engine.types import may_link, type_text
from policies import safe_text
from sandbox import record

JSON = Any

#: A failing output is noted with every invalid node seen so far (ComfyUI's rule); bounded, since that is quadratic.
MAX_DEPENDENT_OUTPUTS: Final = 100
MAX_CYCLE_SHOWN: Final = 50
#: Nodes marked over all cycles of one prompt; beyond it only the node that closes a cycle is, since this is quadratic.
MAX_CYCLE_MARKS: Final = 200_000


@record
class ValidatorCall:
    """A node's own validator is to be run; ``passed`` are the names of the arguments it will get."""

    node_id: str
    received_types: Mapping[str, str]
    passed: tuple[str, ...]


@record
class ValidatorOutcome:
    """What a validator answered, or the exception it ended with."""

    results: Sequence[bool | str | None] = ()
    exception: tuple[str, str, Sequence[str]] | None = None  # type, text, traceback


@record
class Report:
    """Outputs that may run, and the errors of the others in ComfyUI's ``node_errors`` shape."""

    outputs: tuple[str, ...]
    node_errors: dict[str, Any]
    details: str  # of the failed output nodes, as the top-level error shows it

    def raise_if_none(self) -> None:
        """Raises: PromptInvalidError when no output can run."""
        if not self.outputs:
            error = prompt_error(
                "prompt_outputs_failed_validation", "Prompt outputs failed validation", self.details
            )
            error.node_errors = self.node_errors
            raise error


@dataclass(slots=True)
class _Visit:
    errors: list[NodeError] = field(default_factory=list)
    exception: WouldRaiseError | None = None
    children: list[tuple[InputDeclaration, list[JSON]]] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    entered_by: tuple[InputDeclaration, list[JSON]] | None = None  # None for an output
    is_valid: bool = True


def select_outputs(
    prompt: Mapping[str, Mapping[str, JSON]], types: Mapping[str, NodeType], targets: Collection[str] | None
) -> tuple[str, ...]:
    """Check every node's class and return the output nodes to run.

    Raises:
        PromptInvalidError: ``missing_node_type`` or ``prompt_no_outputs``.
    """
    outputs = []
    for node_id, entry in prompt.items():
        name = entry.get("class_type")
        node_type = types.get(name) if isinstance(name, str) else None
        if node_type is None:
            raise _unknown_class(node_id, entry, name)
        if node_type.description.output_node and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        raise prompt_error("prompt_no_outputs", "Prompt has no outputs")
    return tuple(outputs)


def _unknown_class(node_id: str, entry: Mapping[str, JSON], name: JSON) -> Exception:
    meta = entry.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) and isinstance(meta.get("title"), str) else None
    shown = safe_text(name, 200) if isinstance(name, str) else None
    message = (
        "A node has no class_type"
        if shown is None
        else f"No installed extension provides the node class '{shown}'"
    )
    return prompt_error(
        "missing_node_type",
        message,
        f"Node ID '#{safe_text(node_id, 80)}'",
        node_id=node_id,
        class_type=name if isinstance(name, str) else None,
        node_title=title or (name if isinstance(name, str) else None),
    )


class Walk:
    """Looks at the outputs and everything they declare to need; writes converted constants back into ``prompt``."""

    def __init__(
        self,
        prompt: Mapping[str, dict[str, JSON]],
        types: Mapping[str, NodeType],
        outputs: Sequence[str],
        borders: Borders | None = None,
    ) -> None:
        self._borders = borders
        self._prompt = prompt
        self._types = types
        self._outputs = outputs
        self._visits: dict[str, _Visit] = {}
        self._segments: list[list[str]] = []  # per output: the nodes that its walk was the first to finish
        self._cycle_marks = 0
        self.validators: list[ValidatorCall] = []
        self.stale_classes: set[str] = (
            set()
        )  # classes of which a constant was refused: their lists may be old
        for output in outputs:
            self._segments.append(self._walk_from(output))

    # -- the walk ------------------------------------------------------------------------------------------------

    def _walk_from(self, output: str) -> list[str]:
        finished: list[str] = []
        if output in self._visits:
            return finished
        path: dict[str, int] = {}  # node ids on the way down, in order
        stack: list[tuple[str, int]] = []

        def enter(node_id: str, by: tuple[InputDeclaration, list[JSON]] | None) -> None:
            visit = self._visits[node_id] = _Visit(entered_by=by)
            path[node_id] = len(path)
            stack.append((node_id, 0))
            try:
                self._look_at(node_id, visit)
            except WouldRaiseError as error:
                visit.exception = error
                visit.errors, visit.children = [], []

        enter(output, None)
        while stack:
            node_id, position = stack.pop()
            visit = self._visits[node_id]
            if position == len(visit.children):
                del path[node_id]
                finished.append(node_id)
                continue
            stack.append((node_id, position + 1))
            declaration, value = visit.children[position]
            child = value[0]
            if child in path:
                length = len(path) - path[child]
                whole = self._cycle_marks + length <= MAX_CYCLE_MARKS
                self._cycle_marks += length
                self._mark_cycle([*path][path[child] :] if whole else [node_id])
            elif child not in self._visits:
                enter(child, (declaration, value))
            self._visits[child].parents.append(node_id)
        return finished

    def _look_at(self, node_id: str, visit: _Visit) -> None:
        entry = self._prompt[node_id]
        inputs: dict[str, JSON] = entry["inputs"]
        node_type = self._types[entry["class_type"]]
        description = node_type.description
        validator = description.validator
        declared = node_type.inputs.of(inputs)
        received_types: dict[str, str] = {}
        for name, declaration in declared.items():
            if name not in inputs:
                if declaration.required:
                    visit.errors.append(
                        node_error(
                            "required_input_missing",
                            "Required input is missing",
                            declaration.label,
                            input_name=name,
                        )
                    )
            elif isinstance(inputs[name], list):
                received = self._look_at_link(declaration, inputs[name], visit, node_type)
                if received is not None:
                    received_types[name] = received
            else:
                named = validator is not None and (validator.kwargs or _is_named(name, validator.args))
                error = check_constant(declaration, inputs, checked_by_node=named)
                if error is not None:
                    visit.errors.append(error)
                    self.stale_classes.add(entry["class_type"])
        if not inputs.keys() <= declared.keys():
            self._look_at_undeclared(inputs, declared)
        if validator is not None:
            passed = _passed_arguments(node_type, inputs, declared)
            self.validators.append(ValidatorCall(node_id, received_types, passed))

    def _look_at_link(
        self, declaration: InputDeclaration, value: list[JSON], visit: _Visit, node_type: NodeType
    ) -> str | None:
        name = declaration.name
        if len(value) != 2:
            visit.errors.append(
                node_error(
                    "bad_linked_input",
                    "Bad linked input, must be a list of a node id and a slot index",
                    name,
                    input_name=name,
                    input_config=declaration.config,
                    received_value=value,
                )
            )
            return None
        maker, received, received_is_any = self._output(value)
        if received == declaration.type or self._may_link(declaration, received, received_is_any, node_type):
            visit.children.append((declaration, value))
            if self._borders is not None and maker.perhaps_objects:
                refusal = self._borders.refuse(declaration, value, node_type, self._prompt, self._types)
                visit.errors += [refusal] if refusal else []
        else:
            visit.errors.append(
                node_error(
                    "return_type_mismatch",
                    "Return type mismatch between linked nodes",
                    f"{name}, received_type({_shown_type(received)})"
                    f" mismatch input_type({_shown_type(declaration.type)})",
                    input_name=name,
                    input_config=declaration.config,
                    received_type=received,
                    linked_node=value,
                )
            )
        return received if isinstance(received, str) else type_text(received)

    def _may_link(
        self, declaration: InputDeclaration, received: JSON, received_is_any: bool, node_type: NodeType
    ) -> bool:
        description, name = node_type.description, declaration.name
        if description.validator is not None and description.validator.input_types:
            return True
        is_any = name in description.any_inputs or name.partition(".")[0] in description.any_inputs
        return may_link(received, declaration.type, received_is_any=received_is_any, declared_is_any=is_any)

    def _output(self, value: list[JSON]) -> tuple[NodeType, JSON, bool]:
        """The class of a link's source, the type of its output, and whether that fits every input."""
        source, slot = value
        if not isinstance(source, str) or source not in self._prompt:
            raise WouldRaiseError(
                "KeyError", f"the link {shown(value)} names a node that is not in the prompt"
            )
        maker = self._types[self._prompt[source]["class_type"]]
        outputs = maker.outputs
        if not isinstance(slot, int):
            raise WouldRaiseError(
                "TypeError", f"the link {shown(value)} has a slot that is not a whole number"
            )
        if not 0 <= slot < len(outputs):
            raise WouldRaiseError(
                "IndexError", f"the link {shown(value)} names slot {slot}; the node has {len(outputs)}"
            )
        return maker, outputs[slot], slot in maker.description.any_outputs

    def _look_at_undeclared(self, inputs: Mapping[str, JSON], declared: Collection[str]) -> None:
        # They are delivered at run time, declared or not, so a link into nowhere can only fail later.
        for name, value in inputs.items():
            if name in declared:
                continue
            link = as_link(value)
            if link is not None and link.source not in self._prompt:
                raise WouldRaiseError(
                    "KeyError", f"the link {shown(value)} names a node that is not in the prompt"
                )

    def _mark_cycle(self, cycle: list[str]) -> None:
        shown = [*cycle[:MAX_CYCLE_SHOWN], *(["..."] if len(cycle) > MAX_CYCLE_SHOWN else []), cycle[0]]
        path = " -> ".join(
            node_id if node_id == "..." else f"{node_id} ({self._prompt[node_id]['class_type']})"
            for node_id in shown
        )
        for node_id in cycle:
            errors = self._visits[node_id].errors
            if not any(error["type"] == "dependency_cycle" for error in errors):
                errors.append(
                    node_error(
                        "dependency_cycle",
                        "Nodes depend on each other in a circle",
                        path,
                        node_id=node_id,
                        cycle_nodes=cycle[:MAX_CYCLE_SHOWN],
                    )
                )

    # -- the report ----------------------------------------------------------------------------------------------

    def report(self, outcomes: Mapping[str, ValidatorOutcome]) -> Report:
        """Put the walk's findings and the validators' answers together."""
        for call in self.validators:
            if call.node_id in outcomes and self._visits[call.node_id].exception is None:
                self._apply(call, outcomes[call.node_id])
        if not self._spread_invalidity():
            return Report(tuple(self._outputs), {}, "")
        seen: list[str] = []  # with errors of their own, in the order in which they were finished
        first_open = 0  # those before it have as many dependent outputs as are listed
        node_errors: dict[str, Any] = {}
        good: list[str] = []
        details: list[str] = []
        for output, segment in zip(self._outputs, self._segments, strict=True):
            for node_id in segment:
                errors = self._errors_of(node_id)
                if errors:
                    seen.append(node_id)
                    node_errors[node_id] = {
                        "errors": errors,
                        "dependent_outputs": [],
                        "class_type": self._prompt[node_id]["class_type"],
                    }
            if self._visits[output].is_valid:
                good.append(output)
                continue
            details += [f"{error['message']}: {error['details']}" for error in self._errors_of(output)]
            for node_id in seen[first_open:]:
                node_errors[node_id]["dependent_outputs"].append(output)
            while first_open < len(seen) and _is_full(node_errors[seen[first_open]]):
                first_open += 1
        return Report(
            tuple(good), node_errors if len(good) < len(self._outputs) else {}, "\n".join(details[:1000])
        )

    def _apply(self, call: ValidatorCall, outcome: ValidatorOutcome) -> None:
        visit = self._visits[call.node_id]
        if outcome.exception is not None:
            visit.exception = WouldRaiseError(*outcome.exception)
            visit.errors = []
            return
        for result in outcome.results:
            if result is True:
                continue
            suffix = "" if result is False else f" - {result}"
            message = "Custom validation failed for node"
            for name in call.passed:  # as in ComfyUI, a verdict of a validator that was given nothing is lost
                visit.errors.append(
                    node_error("custom_validation_failed", message, name + suffix, input_name=name)
                )

    def _spread_invalidity(self) -> bool:
        """Mark all that depends on what is wrong; False where nothing is."""
        wave = [
            node_id for node_id, visit in self._visits.items() if visit.errors or visit.exception is not None
        ]
        if not wave:
            return False
        for node_id in wave:
            self._visits[node_id].is_valid = False
        while wave:
            parents = [parent for node_id in wave for parent in self._visits[node_id].parents]
            wave = []
            for parent in parents:
                if self._visits[parent].is_valid:
                    self._visits[parent].is_valid = False
                    wave.append(parent)
        return True

    def _errors_of(self, node_id: str) -> list[NodeError]:
        visit = self._visits[node_id]
        if visit.exception is None:
            return visit.errors
        exception = visit.exception
        if visit.entered_by is None:
            return [
                node_error(
                    "exception_during_validation",
                    "Exception when validating node",
                    exception.text,
                    exception_type=exception.kind,
                    traceback=exception.traceback,
                )
            ]
        declaration, value = visit.entered_by
        return [
            node_error(
                "exception_during_inner_validation",
                "Exception when validating inner node",
                exception.text,
                input_name=declaration.name,
                input_config=declaration.config,
                exception_message=exception.text,
                exception_type=exception.kind,
                traceback=exception.traceback,
                linked_node=value,
            )
        ]


def _is_full(entry: dict[str, Any]) -> bool:
    return len(entry["dependent_outputs"]) >= MAX_DEPENDENT_OUTPUTS


def _is_named(name: str, args: Collection[str]) -> bool:
    return name in args or ("." in name and name.partition(".")[0] in args)


def _passed_arguments(
    node_type: NodeType, inputs: Mapping[str, JSON], declared: Collection[str]
) -> tuple[str, ...]:
    description = node_type.description
    validator = description.validator
    if validator is None:
        return ()
    available = [
        name
        for name, value in inputs.items()
        if name in declared or description.accepts_any_name or as_link(value) is not None
    ]
    if description.api == "v1":
        available += [name for name in description.hidden if name not in available]
    named = [name for name in available if validator.kwargs or _is_named(name, validator.args)]
    return (*named, "input_types") if validator.input_types else tuple(named)


def _shown_type(declared: JSON) -> str:
    return declared if isinstance(declared, str) else shown(declared)
