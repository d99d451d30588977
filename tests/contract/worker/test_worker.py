"""What the host can rely on: one suite over both transports, with a real worker as a child process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from runtime import wire
from tests.contract.worker.conftest import TRANSPORTS
from tests.contract.worker.workerhost import Items, WorkerError, WorkerHost

_names = itertools.count()


def fresh_gate() -> str:
    return f"gate{next(_names)}"


def started(host: WorkerHost, number: int) -> dict[str, Any]:
    """Wait until call ``number`` reports that it runs."""
    found: dict[str, Any] = host.wait_for(
        lambda: next((report for report in host.said(wire.PROGRESS) if report["call"] == number), None)
    )
    return found


def begin(host: WorkerHost, class_type: str, name: str) -> tuple[int, int]:
    """Start a gate node; the request's id and the call's."""
    params = host.params(class_type, {"name": name})
    request = host.start(wire.EXECUTE, params)
    return request, params["call"]


# -- calls -----------------------------------------------------------------------------------------------------------


def test_a_node_runs_and_its_outputs_come_back(shared: WorkerHost) -> None:
    assert shared.execute("RFAdd", {"a": 2, "b": 3}) == {
        "slots": [[5]],
        "ui": None,
        "calls": None,
        "blocked": [],
    }


def test_tensors_go_in_and_out_and_hidden_inputs_are_filled(shared: WorkerHost) -> None:
    made = shared.files.adopt(shared.execute("RFSolid", {"width": 40, "height": 30, "value": 0.25}))
    image = made["slots"][0][0]
    assert image[wire.TAG_TENSOR]["shape"] == [1, 30, 40, 3]
    result = shared.execute("RFInvert", {"image": image, "strength": 1.0}, node_id="42")
    assert result["slots"][1] == ["42"]
    mean = shared.execute("RFInPlace", {"image": shared.files.adopt(result)["slots"][0][0]})
    assert mean["slots"] == [[7.0]]


def test_writing_into_an_input_changes_nobody_elses(shared: WorkerHost) -> None:
    made = shared.files.adopt(shared.execute("RFSolid", {"width": 400, "height": 400, "value": 0.5}))
    image = made["slots"][0][0]
    before = (shared.files.inbox / image[wire.TAG_TENSOR]["file"]).read_bytes()
    shared.execute("RFInPlace", {"image": image})
    assert (shared.files.inbox / image[wire.TAG_TENSOR]["file"]).read_bytes() == before


def test_v1_objects_live_across_calls_until_they_are_dropped(shared: WorkerHost) -> None:
    def count(instance: str) -> int:
        return int(shared.execute("RFCounter", instance=instance)["slots"][0][0])

    assert [count("a"), count("a"), count("b"), count("a")] == [1, 2, 1, 3]
    shared.notify(wire.DROP_INSTANCES, {"instances": ["a"]})
    assert [count("a"), count("b")] == [1, 2]
    shared.notify(wire.DROP_INSTANCES, {"instances": []})
    assert count("b") == 1


def test_live_objects_are_handles_and_come_back_as_themselves(shared: WorkerHost) -> None:
    model = shared.execute("RFModel", {"factor": 3.0})["slots"][0][0]
    assert set(model) == {wire.TAG_HANDLE}
    model[wire.TAG_HANDLE]["sandbox"] = "s1"
    assert shared.execute("RFModel", {"factor": 1.0, "model": model})["slots"][1] == [30.0]
    shared.notify(wire.RELEASE_HANDLES, {"handles": [model[wire.TAG_HANDLE]["id"]]})

    with pytest.raises(WorkerError) as caught:
        shared.execute("RFModel", {"factor": 1.0, "model": model})
    assert caught.value.code == wire.UNKNOWN_HANDLE


def test_ui_objects_are_made_plain(shared: WorkerHost) -> None:
    assert shared.execute("RFReport", {"text": "hi"})["ui"] == {"text": ["hi"], "pair": [1, 2.5]}


def test_a_failing_node_is_reported_with_its_inputs_and_the_packs_frames_only(shared: WorkerHost) -> None:
    with pytest.raises(WorkerError, match="ValueError: boom") as caught:
        shared.execute("RFRaises", {"text": "boom"})
    assert caught.value.code == wire.NODE_RAISED
    report = caught.value.data
    assert (report["type"], report["message"], report["inputs"]) == ("ValueError", "boom", {"text": ["boom"]})
    assert len(report["traceback"]) == 1
    assert "friendly_v1/__init__.py" in report["traceback"][0]


def test_an_unknown_node_and_an_unknown_method_are_errors_of_their_own(shared: WorkerHost) -> None:
    with pytest.raises(WorkerError) as caught:
        shared.execute("RFNobody")
    assert caught.value.code == wire.UNKNOWN_NODE
    with pytest.raises(WorkerError) as caught:
        shared.call("node/fly")
    assert caught.value.code == wire.METHOD_NOT_FOUND


def test_a_refused_allocation_fails_the_node_with_the_hosts_figures(shared: WorkerHost) -> None:
    shared.files.limit = 1000
    try:
        with pytest.raises(WorkerError) as caught:
            shared.execute("RFSolid", {"width": 100, "height": 100, "value": 0.0})
    finally:
        shared.files.limit = 1 << 40
    assert caught.value.code == wire.QUOTA_EXCEEDED
    assert caught.value.data == {"limit": 1000, "asked": 120_000, "used": 0}


def test_an_extension_may_write_into_its_own_folder_without_touching_the_original(shared: WorkerHost) -> None:
    assert shared.execute("RFWriteBeside", {"text": "mine"})["slots"] == [["mine"]]
    assert (shared.root / "app/custom_nodes/friendly_v1/settings.txt").read_text() == "mine"


# -- list mapping, lazy inputs, blockers, expansion ------------------------------------------------------------------


def test_lists_are_mapped_and_shorter_ones_repeat_their_last_item(shared: WorkerHost) -> None:
    result = shared.execute("RFPair", {"a": Items(1, 2, 3), "b": Items("x", "y")})
    assert result["slots"] == [["1/x", "2/y", "3/y"]]


def test_list_outputs_are_concatenated_and_list_inputs_come_whole(shared: WorkerHost) -> None:
    assert shared.execute("RFMakeList", {"count": Items(2, 3)})["slots"] == [[0, 1, 0, 1, 2], [2, 3]]
    assert shared.execute("RFSumList", {"values": Items(1, 2, 3), "scale": 10})["slots"] == [[60]]
    assert shared.execute("RFSumList", {"values": Items()})["slots"] == [[0]]


def test_all_lists_empty_is_one_call_without_arguments(shared: WorkerHost) -> None:
    assert shared.execute("RFPair", {"a": Items(), "b": Items()})["slots"] == [["nothing/nothing"]]


def test_one_empty_list_among_others_is_a_clear_error(shared: WorkerHost) -> None:
    with pytest.raises(WorkerError, match="input 'a' received an empty list"):
        shared.execute("RFPair", {"a": Items(), "b": 1})


def test_a_lazy_node_says_what_it_wants(shared: WorkerHost) -> None:
    params = shared.params("RFLazySwitch", {"first": False, "on_true": None, "on_false": None})
    assert shared.call(wire.LAZY, params) == {"names": ["on_false"]}
    params = shared.params("RFLazySwitch", {"first": False, "on_true": None, "on_false": 5})
    assert shared.call(wire.LAZY, params) == {"names": []}
    assert shared.call(wire.EXECUTE, params)["slots"] == [[5]]


def test_a_blocker_blocks_its_call_only_and_is_reported_once(shared: WorkerHost) -> None:
    blocked = shared.execute("RFBlock", {"value": 1, "block": Items(True, False), "message": "stop here"})
    assert blocked["slots"] == [[{wire.TAG_BLOCKER: "stop here"}, 1]]
    result = shared.execute("RFPair", {"a": Items(*blocked["slots"][0]), "b": 2})
    assert result["slots"] == [[{wire.TAG_BLOCKER: None}, "1/2"]]
    assert result["blocked"] == [{"index": 0, "message": "stop here"}]
    silent = shared.execute("RFPair", {"a": Items(*result["slots"][0]), "b": 2})
    assert silent["slots"] == [[{wire.TAG_BLOCKER: None}, "1/2/2"]]
    assert silent["blocked"] == []


def test_one_blocker_in_a_list_blocks_a_node_that_takes_whole_lists(shared: WorkerHost) -> None:
    result = shared.execute("RFSumList", {"values": Items(1, {wire.TAG_BLOCKER: None})})
    assert result["slots"] == [[{wire.TAG_BLOCKER: None}]]


def test_an_expansion_carries_its_graph_with_prefixed_ids(shared: WorkerHost) -> None:
    result = shared.execute("RFExpand", {"start": 5, "count": Items(1, 0)}, node_id="9")
    assert result["slots"] is None
    assert result["calls"] == [
        {
            "result": [["9.0.0.1", 0]],
            "expand": {
                "9.0.0.1": {"class_type": "RFAdd", "inputs": {"a": 5, "b": 1}, "override_display_id": None}
            },
        },
        {"result": [5], "expand": None},
    ]


# -- which inputs a node gets ----------------------------------------------------------------------------------------


def test_undeclared_links_are_passed_and_undeclared_constants_dropped(shared: WorkerHost) -> None:
    inputs = {"linked": 1, "constant": 2}
    assert shared.execute("RFKwargs", inputs, links=["linked"])["slots"] == [["linked"]]
    assert shared.execute("RFAdd", {"a": 1, "b": 2, "upload": "image"})["slots"] == [[3]]


def test_a_class_that_claims_every_name_gets_every_name(shared: WorkerHost) -> None:
    assert shared.execute("RFDynamic", {"x": 1, "y": 2}, links=["x"])["slots"] == [["x=1,y=2"]]


def test_without_word_on_links_the_signature_decides(shared: WorkerHost) -> None:
    assert shared.execute("RFAdd", {"a": 1, "b": 2, "upload": "image"}, links=None)["slots"] == [[3]]
    assert shared.execute("RFKwargs", {"anything": 1}, links=None)["slots"] == [["anything"]]


def test_a_raw_link_arrives_as_a_link_and_the_graph_can_be_walked(shared: WorkerHost) -> None:
    graph = {
        "nodes": {"3": {"class_type": "Source", "inputs": {}}},
        "parents": {},
        "displays": {},
        "original": ["3"],
    }
    result = shared.execute("RFRawLink", {"link": ["3", 0]}, dynprompt=graph)
    assert result["slots"] == [["Source"]]


# -- questions -------------------------------------------------------------------------------------------------------


def test_validators_get_the_arguments_they_name(shared: WorkerHost) -> None:
    def validate(**inputs: Any) -> Any:
        params = shared.params("RFAdd", inputs) | {"input_types": {"b": "INT"}}
        return shared.call(wire.VALIDATE, params)["results"]

    assert validate(a=1, b=None) == [True]
    assert validate(a=13, b=None) == ["13 is not a number that we add"]


def test_a_validator_that_raises_is_an_error_of_the_node(shared: WorkerHost) -> None:
    with pytest.raises(WorkerError, match="TypeError") as caught:
        shared.call(wire.VALIDATE, shared.params("RFAdd", {"b": 1}))
    assert caught.value.code == wire.NODE_RAISED


def test_fingerprints_are_lists_of_comparable_json(shared: WorkerHost) -> None:
    def fingerprint(**inputs: Any) -> Any:
        return shared.call(wire.FINGERPRINT, shared.params("RFAdd", inputs))["value"]

    assert fingerprint(a=1, b=2) == ["1:2"]
    assert fingerprint(a=99, b=2) == [{wire.TAG_FLOAT: "nan"}]
    assert fingerprint(a=1) == {wire.TAG_FLOAT: "nan"}, "it raised: the node then runs every time"
    assert "IS_CHANGED of RFAdd failed" in shared.wait_for(lambda: shared.log("stderr"))


def test_v3_nodes_run_validate_and_are_fingerprinted(shared: WorkerHost) -> None:
    image = shared.files.adopt(shared.execute("RFSolid", {"width": 4, "height": 4, "value": 8.0}))["slots"][
        0
    ][0]
    params = shared.params("RFScale", {"image": image, "factor": 0.5, "times": 2}, node_id="77")
    result = shared.call(wire.EXECUTE, params)
    assert result["slots"][1] == ["77"]
    assert result["slots"][0][0][wire.TAG_TENSOR]["shape"] == [1, 4, 4, 3]
    assert shared.call(wire.VALIDATE, shared.params("RFScale", {"image": None, "factor": 4}))["results"] == [
        "a factor of 4 is not allowed"
    ]
    assert shared.call(wire.FINGERPRINT, shared.params("RFScale", {"image": None, "factor": 2}))["value"] == [
        ["scale", 2]
    ]
    assert shared.execute("RFReportV3", {"value": 3})["ui"] == {"text": ["3"]}
    assert shared.execute("RFWait", {"seconds": 0.0})["slots"] == [[0.0]]


def test_the_draft_spelling_of_v3_works(shared: WorkerHost) -> None:
    assert shared.execute("RFShout", {"text": "hi"})["slots"] == [["HI"]]


def test_a_validator_may_report_progress_but_nobody_listens(shared: WorkerHost) -> None:
    shared.messages.clear()
    params = shared.params("RFTalkativeValidator", {"n": 1})
    assert shared.call(wire.VALIDATE, params)["results"] == [True]
    assert shared.said(wire.PROGRESS) == []


def test_dynamic_inputs_reach_a_v3_node_nested(shared: WorkerHost) -> None:
    inputs = {"mode": "scale", "mode.factor": 2, "values.v0": 10, "values.v1": 20, "stray": 1}
    result = shared.execute("RFDynamicV3", inputs, links=["values.v0", "values.v1"])
    assert json.loads(result["slots"][0][0]) == {
        "mode": {"factor": 2, "mode": "scale"},
        "values": {"v0": 10, "v1": 20},
    }
    mapped = shared.execute("RFDynamicV3", {"mode": "plain", "values.v0": Items(1, 2)}, links=["values.v0"])
    assert [json.loads(text)["values"] for text in mapped["slots"][0]] == [{"v0": 1}, {"v0": 2}]


def test_a_lazy_question_names_the_parts_of_dynamic_inputs(shared: WorkerHost) -> None:
    params = shared.params(
        "RFDynamicV3", {"mode": "plain", "values.v0": None, "values.v1": 5}, links=["values.v0"]
    )
    assert shared.call(wire.LAZY, params) == {"names": ["values.v0"]}


def test_all_mapped_calls_of_a_coroutine_node_run_at_once(shared: WorkerHost) -> None:
    names = [fresh_gate() for _ in range(3)]
    request = shared.start(wire.EXECUTE, shared.params("RFGateWaitAsync", {"name": Items(*names)}))
    for name in reversed(names):
        shared.execute("RFGateOpenAsync", {"name": name})
    assert shared.result(request)["slots"] == [names]


def test_the_first_failure_in_call_order_is_the_nodes_error(shared: WorkerHost) -> None:
    with pytest.raises(WorkerError, match="ValueError: 1"):
        shared.execute("RFFailAsync", {"n": Items(0, 1, 2)})


# -- who waits for whom ----------------------------------------------------------------------------------------------


def test_coroutine_nodes_overlap_with_each_other_and_with_a_synchronous_one(shared: WorkerHost) -> None:
    first, second = fresh_gate(), fresh_gate()
    waiting, _ = begin(shared, "RFGateWaitAsync", first)
    blocking, call = begin(shared, "RFGateWait", second)
    started(shared, call)  # the main thread is taken
    assert shared.execute("RFGateOpenAsync", {"name": first})["slots"] == [[first]]
    assert shared.result(waiting)["slots"] == [[first]]
    assert shared.execute("RFGateOpenAsync", {"name": second})["slots"] == [[second]]
    assert shared.result(blocking)["slots"] == [[second]]


def test_questions_never_wait_for_a_running_node(shared: WorkerHost) -> None:
    name = fresh_gate()
    request, call = begin(shared, "RFGateWait", name)
    started(shared, call)
    assert shared.call(wire.DESCRIBE, {"class_types": ["RFAdd"]})["nodes"][0]["class_type"] == "RFAdd"
    assert shared.call(wire.FINGERPRINT, shared.params("RFAdd", {"a": 1, "b": 2}))["value"] == ["1:2"]
    assert shared.call(wire.VALIDATE, shared.params("RFGateOpenByValidation", {"name": name}))["results"] == [
        True
    ]
    assert shared.result(request)["slots"] == [[name]]


def test_coroutine_validators_are_awaited(shared: WorkerHost) -> None:
    name = fresh_gate()
    request = shared.start(wire.VALIDATE, shared.params("RFGateWaitInValidation", {"name": name}))
    shared.execute("RFGateOpen", {"name": name})
    assert shared.result(request)["results"] == ["opened"]


def test_progress_names_the_call_and_the_node(shared: WorkerHost) -> None:
    params = shared.params("RFGateWaitAsync", {"name": fresh_gate()}, node_id="31")
    shared.execute("RFGateOpen", {"name": params["inputs"]["name"][0]})
    shared.call(wire.EXECUTE, params)
    assert started(shared, params["call"]) == {
        "call": params["call"],
        "node_id": "31",
        "value": 0,
        "max": 1,
        "preview": None,
        "legacy": True,
    }


# -- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_type", ["RFGateWait", "RFGateWaitAsync"])
def test_a_running_node_is_interrupted_and_the_worker_goes_on(shared: WorkerHost, class_type: str) -> None:
    request, call = begin(shared, class_type, fresh_gate())
    started(shared, call)
    shared.notify(wire.CANCEL, {"call": call})
    with pytest.raises(WorkerError) as caught:
        shared.result(request)
    assert caught.value.code == wire.INTERRUPTED
    assert shared.execute("RFAdd", {"a": 1, "b": 1})["slots"] == [[2]]


def test_a_cancelled_call_that_has_not_started_is_dropped(shared: WorkerHost) -> None:
    first, second = fresh_gate(), fresh_gate()
    running, running_call = begin(shared, "RFGateWait", first)
    started(shared, running_call)
    queued, queued_call = begin(shared, "RFGateWait", second)
    shared.notify(wire.CANCEL, {"call": queued_call})
    with pytest.raises(WorkerError) as caught:
        shared.result(queued)  # at once, although the main thread is taken
    assert caught.value.code == wire.INTERRUPTED
    shared.execute("RFGateOpenAsync", {"name": first})
    assert shared.result(running)["slots"] == [[first]]
    assert not any(report["call"] == queued_call for report in shared.said(wire.PROGRESS))


def test_cancelling_one_call_leaves_another_alone(shared: WorkerHost) -> None:
    kept_gate = fresh_gate()
    kept, kept_call = begin(shared, "RFGateWaitAsync", kept_gate)
    gone, gone_call = begin(shared, "RFGateWaitAsync", fresh_gate())
    started(shared, kept_call)
    started(shared, gone_call)
    shared.notify(wire.CANCEL, {"call": gone_call})
    shared.notify(wire.CANCEL, {"call": 999_999})
    with pytest.raises(WorkerError):
        shared.result(gone)
    shared.execute("RFGateOpen", {"name": kept_gate})
    assert shared.result(kept)["slots"] == [[kept_gate]]


# -- printing --------------------------------------------------------------------------------------------------------


def test_whatever_is_printed_arrives_as_log_before_the_result(shared: WorkerHost) -> None:
    shared.messages.clear()
    shared.execute("RFPrintEverywhere")
    assert "from print\nfrom os.write\nfrom a child\nfrom C\n" in shared.log("stdout")
    assert "to stderr\n" in shared.log("stderr")
    assert "\ufffd\ufffd not utf-8 \x1b[31m red" in shared.log("stdout")


def test_bytes_that_look_like_frames_are_only_text(shared: WorkerHost) -> None:
    shared.messages.clear()
    assert shared.execute("RFPrintFrames")["slots"] == [["done"]]
    assert '"forged"' in shared.log("stdout")
    assert '"forged"' in shared.log("stderr")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_flood_is_bounded_and_what_is_dropped_is_counted(
    start_worker: Callable[..., WorkerHost], transport: str
) -> None:
    host = start_worker(transport)  # of its own: a flood uses up what the next node may print
    host.load("hostile_print")
    host.wait_for(lambda: "imported" in host.log())
    host.messages.clear()
    assert host.execute("RFPrintFlood", {"megabytes": 4})["slots"] == [["done"]]

    def counted() -> int:
        return sum(len(piece["text"]) + piece["dropped"] for piece in host.said(wire.LOG))

    host.wait_for(lambda: counted() >= 4 << 20)
    assert counted() == 4 << 20
    assert len(host.log()) < 1 << 20


def test_a_pack_that_closes_the_streams_silences_nobody_else(shared: WorkerHost) -> None:
    shared.execute("RFPrintClose")
    shared.messages.clear()
    shared.execute("RFPrintEverywhere")
    shared.wait_for(lambda: "from a child" in shared.log("stdout") and "to stderr" in shared.log("stderr"))


def test_standard_input_is_empty(shared: WorkerHost) -> None:
    assert shared.execute("RFPrintReads")["slots"] == [["b''"]]
