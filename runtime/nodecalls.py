"""What may be asked of one node: does it accept this, has it changed, which inputs does it want, run.

Turns call params into a function with its mapped arguments, and outcomes into answers. Any thread may call in here;
which one runs a node is the worker's decision.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from . import calling, failures, fingerprints, inputs, plain, schema, written
from .calling import InstanceTable, Mapped
from .catalogue import Catalogue
from .files import Offered, SharedFiles
from .handles import HandleTable
from .loop import LoopThread
from .peer import RpcError
from .plain_tensors import Given, PlainTensors
from .sdk import context
from .values import Decoder, Encoder
from .written import Written


class NodeCalls:
    """Knows the loaded classes, their objects, and the way of values to and from the wire."""

    def __init__(self, catalogue: Catalogue, files: SharedFiles, loop: LoopThread) -> None:
        self.handles = HandleTable()
        self.instances = InstanceTable()
        self.writes_plainly = True
        """Whether plain results are written without the encoder (``written.py``)."""
        self._catalogue = catalogue
        self._files = files
        self._loop = loop
        self._decoder = Decoder(files, self.handles)

    # -- questions; a failing pack raises its own exception out of these -------------------------------------------

    def validate(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``node/validate``."""
        cls = self._catalogue.node(params).cls
        name = schema.validator_name(cls)
        if name is None:
            return {"results": []}
        mapped = self._mapped(cls, name, params, instance=None, is_validator=True)
        return {"results": fingerprints.verdicts(self.run(mapped))}

    def fingerprint(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``node/fingerprint``; a function that raises makes the node run every time."""
        cls = self._catalogue.node(params).cls
        name = schema.fingerprint_name(cls)
        if name is None:
            return {"value": False}
        try:
            mapped = self._mapped(cls, name, params, instance=None)
            return {"value": fingerprints.fingerprint(self.run(mapped))}
        except RpcError:
            raise
        except Exception as error:  # noqa: BLE001 - the node then simply runs
            failures.print_to_log(error, f"{name} of {params['class_type']} failed")
            return {"value": fingerprints.NEVER_SAME}

    def lazy(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``node/lazy``."""
        cls = self._catalogue.node(params).cls
        name = schema.lazy_function_name(cls)
        if name is None:
            return {"names": []}
        mapped = self._mapped(cls, name, params, instance=lambda: self._instance(cls, params), is_lazy=True)
        with calling.inference_mode():
            outcomes = self.run(mapped)
        lists = [outcome for outcome in outcomes if isinstance(outcome, list)]
        asked = {item for names in lists for item in names if isinstance(item, str)}
        return {"names": sorted(plain.clean(name) for name in asked if 0 < len(name) <= schema.MAX_NAME)}

    # -- execution, in its three steps -----------------------------------------------------------------------------

    def prepare(self, cls: Any, params: Mapping[str, Any], interrupted: context.Flag) -> Mapped:
        """Decode the inputs of ``cls`` and find its function; step one of ``node/execute``."""
        return self._mapped(
            cls, cls.FUNCTION, params, instance=lambda: self._instance(cls, params), interrupted=interrupted
        )

    def run(self, mapped: Mapped) -> list[Any]:
        """Run here, or on the loop if the function is a coroutine function (not from the loop's thread)."""
        return self._loop.submit(mapped.run_async()).result() if mapped.is_async else mapped.run()

    def result(
        self, cls: Any, params: Mapping[str, Any], outcomes: list[Any], arguments: Mapping[str, Any]
    ) -> dict[str, Any] | Written:
        """Merge and encode what came back; on failure nothing of it stays published.

        Raises:
            RpcError: the node returned what no node may, or a value has no portable form.
        """
        given, offered = Given(params.get("inputs")), Offered(params.get("offered") or ())
        if self.writes_plainly:
            tensors = PlainTensors(self._files, given, offered)
            try:
                result = written.plain_result(cls, outcomes, len(schema.return_types(cls)), tensors)
            except BaseException as error:
                tensors.rollback()
                raise failures.as_rpc_error(error, arguments) from error
            if result is not None:
                return result
        encoder = Encoder(self._files, self.handles, given, offered)
        try:
            return calling.execute_result(cls, outcomes, encoder)
        except BaseException as error:
            encoder.rollback()
            raise failures.as_rpc_error(error, arguments) from error

    # --------------------------------------------------------------------------------------------------------------

    def _instance(self, cls: Any, params: Mapping[str, Any]) -> Any:
        return self.instances.get(str(params.get("instance") or params.get("node_id")), cls)

    def _mapped(
        self,
        cls: Any,
        name: str,
        params: Mapping[str, Any],
        *,
        instance: Callable[[], Any] | None,
        interrupted: context.Flag | None = None,
        is_validator: bool = False,
        is_lazy: bool = False,
    ) -> Mapped:
        gathered = inputs.gather(cls, params, self._decoder, getattr(cls, name))
        function = calling.bound_function(cls, name, instance, gathered.hidden)
        if is_validator:
            inputs.select(gathered, function)
            if "input_types" in inspect.signature(function).parameters:
                gathered.arguments["input_types"] = [dict(params.get("input_types") or {})]
        if is_lazy:
            inputs.name_leaves(gathered)
        call = context.CallContext(
            params.get("call", 0),
            str(params.get("prompt_id", "")),
            str(params.get("node_id", "")),
            None,
            interrupted or context.Flag(),
            is_execution=interrupted is not None,
            client_id=params.get("client_id"),
        )
        return Mapped(function, gathered, bool(getattr(cls, "INPUT_IS_LIST", False)), call)
