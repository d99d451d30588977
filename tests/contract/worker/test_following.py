"""Calls that follow another: a worker has them before it is done with that, and fills in what they wait for."""

from __future__ import annotations

import time
from typing import Any

import pytest

from runtime import wire
from tests.contract.worker.test_worker import fresh_gate, started
from tests.contract.worker.workerhost import Items, WorkerError, WorkerHost


def _following(
    host: WorkerHost, before: dict[str, Any], class_type: str, promised: dict[str, int], **inputs: Any
) -> int:
    """Send a call after ``before``; the request's number."""
    given = dict.fromkeys(promised, Items()) | inputs
    return host.start(
        wire.EXECUTE, host.params(class_type, given, follows={"call": before["call"], "inputs": promised})
    )


def _is_not_followed(host: WorkerHost, number: int) -> bool:
    with pytest.raises(WorkerError) as caught:
        host.result(number)
    return caught.value.code == wire.NOT_FOLLOWING


def test_a_chain_runs_without_a_word_in_between(shared: WorkerHost) -> None:
    first = shared.params("RFAdd", {"a": 2, "b": 3})
    one = shared.start(wire.EXECUTE, first)
    second = shared.params(
        "RFAdd", {"a": Items(), "b": 10}, follows={"call": first["call"], "inputs": {"a": 0}}
    )
    two = shared.start(wire.EXECUTE, second)
    three = _following(shared, second, "RFAdd", {"a": 0, "b": 0})
    assert [shared.result(number)["slots"] for number in (one, two, three)] == [[[5]], [[15]], [[30]]]


def test_it_waits_for_a_long_one_and_takes_its_text(shared: WorkerHost) -> None:
    name = fresh_gate()
    first = shared.params("RFGateWait", {"name": name})
    one = shared.start(wire.EXECUTE, first)
    started(shared, first["call"])
    two = _following(shared, first, "RFReport", {"text": 0})
    shared.execute("RFGateOpenAsync", {"name": name}, node_id="8")
    assert shared.result(one)["slots"] == [[name]]
    assert shared.result(two)["ui"]["text"] == [name]


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("RFRaises", {"text": "boom"}),
        ("RFSolid", {"width": 2400, "height": 2400, "value": 0.5}),  # 66 MiB
        ("RFModel", {"factor": 3.0}),
        ("RFReport", {"text": "shown"}),
    ],
)
def test_nothing_runs_after_one_that_failed_or_made_more_than_values(
    shared: WorkerHost, class_type: str, inputs: dict[str, Any]
) -> None:
    before = len(shared.said(wire.PROGRESS))
    first = shared.params(class_type, inputs)
    one = shared.start(wire.EXECUTE, first)
    two = _following(shared, first, "RFCounter", {"never": 0})
    if class_type == "RFRaises":
        with pytest.raises(WorkerError, match="boom"):
            shared.result(one)
    else:
        shared.files.adopt(shared.result(one))
    assert _is_not_followed(shared, two)
    assert len(shared.said(wire.PROGRESS)) == before
    assert shared.execute("RFAdd", {"a": 1, "b": 1})["slots"] == [[2]]


def test_nothing_runs_after_another_call_or_for_an_output_that_is_not_there(shared: WorkerHost) -> None:
    first = shared.params("RFAdd", {"a": 2, "b": 3})
    one = shared.start(wire.EXECUTE, first)
    other = shared.start(wire.EXECUTE, shared.params("RFAdd", {"a": 1, "b": 1}))
    late = _following(shared, first, "RFAdd", {"a": 0}, b=1)
    assert (shared.result(one)["slots"], shared.result(other)["slots"]) == ([[5]], [[2]])
    assert _is_not_followed(shared, late)
    second = shared.params("RFAdd", {"a": 2, "b": 3})
    shared.start(wire.EXECUTE, second)
    for output in (1, -1):
        assert _is_not_followed(shared, _following(shared, second, "RFAdd", {"a": output}, b=1))


def test_nothing_runs_after_one_that_was_interrupted(shared: WorkerHost) -> None:
    name = fresh_gate()
    first = shared.params("RFGateWait", {"name": name})
    one = shared.start(wire.EXECUTE, first)
    started(shared, first["call"])
    two = _following(shared, first, "RFReport", {"text": 0})
    shared.notify(wire.CANCEL, {"call": first["call"]})
    with pytest.raises(WorkerError) as caught:
        shared.result(one)
    assert caught.value.code == wire.INTERRUPTED
    assert _is_not_followed(shared, two)


def test_one_that_waits_can_be_cancelled(shared: WorkerHost) -> None:
    name = fresh_gate()
    first = shared.params("RFGateWait", {"name": name})
    one = shared.start(wire.EXECUTE, first)
    started(shared, first["call"])
    params = shared.params(
        "RFReport", {"text": Items()}, follows={"call": first["call"], "inputs": {"text": 0}}
    )
    two = shared.start(wire.EXECUTE, params)
    shared.notify(wire.CANCEL, {"call": params["call"]})
    with pytest.raises(WorkerError) as caught:
        shared.result(two)
    assert caught.value.code == wire.INTERRUPTED
    shared.execute("RFGateOpenAsync", {"name": name}, node_id="8")
    assert shared.result(one)["slots"] == [[name]]


def test_a_tensor_is_handed_over_where_it_lies_and_the_hosts_copy_is_its_own(shared: WorkerHost) -> None:
    first = shared.params("RFSolid", {"width": 40, "height": 30, "value": 0.25})
    one = shared.start(wire.EXECUTE, first)
    second = shared.params(
        "RFInvert",
        {"image": Items(), "strength": 1.0},
        follows={"call": first["call"], "inputs": {"image": 0}},
    )
    two = shared.start(wire.EXECUTE, second)
    three = _following(shared, second, "RFInPlace", {"image": 0})
    made, inverted = (shared.files.adopt(shared.result(number)) for number in (one, two))
    assert shared.result(three)["slots"] == [[7.0]]
    for made_by, value in ((made, 0.25), (inverted, 0.75)):
        ref = made_by["slots"][0][0][wire.TAG_TENSOR]
        assert ref["shape"] == [1, 30, 40, 3]
        data = memoryview((shared.files.inbox / ref["file"]).read_bytes()).cast("f")
        assert set(data) == {value}


def test_a_tensor_that_follows_is_as_one_that_the_host_sends(shared: WorkerHost) -> None:
    """Neither of inference mode nor a view, whether it was sent or handed over."""
    said = []
    for follows in (False, True):
        first = shared.params("RFSolid", {"width": 4, "height": 4, "value": 0.25})
        one = shared.start(wire.EXECUTE, first)
        if follows:
            two = _following(shared, first, "RFKind", {"image": 0})
            image = shared.files.adopt(shared.result(one))["slots"][0][0]
        else:
            image = shared.files.adopt(shared.result(one))["slots"][0][0]
            two = shared.start(wire.EXECUTE, shared.params("RFKind", {"image": Items(image)}))
        said.append(shared.result(two)["slots"])
    assert said[0] == said[1] == [["torch.float32 [1, 4, 4, 3] False False False True"]]


def test_what_a_call_made_is_gone_when_one_runs_that_does_not_follow(shared: WorkerHost) -> None:
    made = shared.files.adopt(shared.execute("RFSolid", {"width": 4, "height": 4, "value": 0.25}))
    assert made["slots"]
    assert shared.execute("RFLeft")["slots"] == [[0]]


def test_much_that_a_call_made_is_kept_for_one_that_was_sent_meanwhile_and_for_none_that_comes_later(
    shared: WorkerHost,
) -> None:
    """To let go of 33 MiB takes time, which would be a part of whichever call comes next."""
    large = {"width": 1700, "height": 1700, "value": 0.5}

    def is_followed(*, late: bool) -> bool:
        call = shared.params("RFSolid", large)
        number = shared.start(wire.EXECUTE, call)
        if late:
            shared.files.adopt(shared.result(number))
        follows = _following(shared, call, "RFKind", {"image": 0})
        if not late:
            shared.files.adopt(shared.result(number))
        try:
            said = shared.result(follows)["slots"]
        except WorkerError as error:
            if error.code == wire.NOT_FOLLOWING:
                return False
            raise
        assert said == [["torch.float32 [1, 1700, 1700, 3] False False False True"]]
        return True

    # On a busy machine one is sent later than it should be, or before the worker has looked whether it is there.
    assert any(is_followed(late=False) for _ in range(10))
    assert not all(is_followed(late=True) for _ in range(10))


def test_what_a_call_made_is_not_kept_for_long(shared: WorkerHost) -> None:
    first = shared.params("RFSolid", {"width": 4, "height": 4, "value": 0.25})
    shared.files.adopt(shared.result(shared.start(wire.EXECUTE, first)))
    end = time.monotonic() + 60
    while time.monotonic() < end:
        # Each refused one lets go of it as well, so every turn begins anew.
        first = shared.params("RFSolid", {"width": 4, "height": 4, "value": 0.25})
        shared.files.adopt(shared.result(shared.start(wire.EXECUTE, first)))
        # Longer than the worker keeps it by its own clock, which nothing outside shows; asking earlier would take it.
        # On a busy machine it takes more turns.
        time.sleep(0.2)
        late = _following(shared, first, "RFKind", {"image": 0})
        try:
            shared.result(late)
        except WorkerError as error:
            if error.code == wire.NOT_FOLLOWING:
                return
            raise
    raise AssertionError("it was kept")
