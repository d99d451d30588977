"""Error objects in ComfyUI's shape, as far as a run does not show them by itself."""

from __future__ import annotations

import pytest

from engine.errors import NodeInputError
from engine.graph import Graph
from engine.reports import OUT_OF_MEMORY_ADVICE, failure_details
from sandbox.errors import EndedError, NodeRaisedError
from tests.unit.engine.scene import BASICS, prompt

GRAPH = Graph(prompt(a=("Const", {"v": 1})), {node.class_type: node.describe() for node in BASICS})


def details(error):
    return failure_details(error, GRAPH["a"], GRAPH, executed=[], current_inputs={"v": [1]})


def test_an_out_of_memory_error_comes_with_advice():
    error = NodeRaisedError("CUDA out of memory", exception_type="torch.OutOfMemoryError", out_of_memory=True)
    assert details(error)["exception_message"] == f"CUDA out of memory\n{OUT_OF_MEMORY_ADVICE}"


def test_inputs_that_the_worker_described_are_shown_as_it_did():
    error = NodeRaisedError("no", exception_type="ValueError", inputs={"v": [1, None, 2.5, "text"]})
    assert details(error)["current_inputs"] == {"v": [1, None, 2.5, "text"]}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NodeInputError("no"), "comfy_execution.graph.NodeInputError"),
        (EndedError("ended", limit="memory"), "ringfence.EndedError"),
    ],
)
def test_errors_of_the_engine_have_comfyuis_names_where_it_has_them(error, kind):
    found = details(error)
    assert found["exception_type"] == kind
    assert found["current_inputs"] == {"v": [1]}
