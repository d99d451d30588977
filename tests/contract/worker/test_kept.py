"""State and resources as a pack sees them, against a host that records what it is asked."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from runtime import wire
from tests.contract.worker.workerhost import WorkerError, WorkerHost


@pytest.fixture
def worker(start_worker: Callable[..., WorkerHost]) -> WorkerHost:
    host = start_worker()
    host.load("keeper")
    return host


def test_replacements_that_the_pack_registers_are_told_when_it_loads(
    start_worker: Callable[..., WorkerHost],
) -> None:
    assert start_worker().load("keeper")["node_replacements"] == [
        {
            "new_node_id": "RFRemember",
            "old_node_id": "RFOldRemember",
            "old_widget_ids": None,
            "input_mapping": [{"new_id": "value", "old_id": "thing"}],
            "output_mapping": None,
        }
    ]


def value(result: dict[str, Any]) -> Any:
    return result["slots"][0][0]


def test_a_call_fetches_its_state_once_and_sends_each_change(worker: WorkerHost) -> None:
    assert value(worker.execute("RFCount")) == 1
    assert value(worker.execute("RFCountAsync")) == 2
    assert [method for method, _ in worker.asked] == [wire.STATE_GET, wire.STATE_SET] * 2
    assert worker.state == {"count": 2}


def test_what_is_changed_inside_a_value_is_sent_when_the_call_ends(worker: WorkerHost) -> None:
    worker.state = {"seen": [1], "other": 5}
    worker.execute("RFRemember", {"value": 2})
    assert worker.state == {"seen": [1, 2], "other": 5}
    assert worker.asked[-1][1]["values"] == {"seen": [1, 2]}


def test_attributes_that_were_never_set_read_as_none(worker: WorkerHost) -> None:
    assert value(worker.execute("RFUnset")) == [None, None, 5, None]
    assert value(worker.execute("RFForget")) == [7, False, []]


def test_a_tuple_comes_back_as_a_list_and_true_is_not_one(worker: WorkerHost) -> None:
    worker.execute("RFKeep", {"value": {wire.TAG_TUPLE: [1, True]}})
    assert worker.state == {"kept": [1, True]}
    assert worker.state["kept"][1] is True


def test_what_is_no_plain_data_is_an_error_that_says_where(worker: WorkerHost) -> None:
    with pytest.raises(
        WorkerError, match=r"state attribute kept\.list\[1\] is a object; state holds plain data"
    ):
        worker.execute("RFKeepObject")
    with pytest.raises(WorkerError, match="state attribute kept is nan; state holds finite numbers only"):
        worker.execute("RFKeep", {"value": {wire.TAG_FLOAT: "nan"}})
    assert worker.state == {}


def test_a_state_over_the_limit_is_refused_before_it_is_sent(worker: WorkerHost) -> None:
    with pytest.raises(WorkerError, match="a node may keep 131072 bytes of state, this one would keep"):
        worker.execute("RFKeep", {"value": ["x" * 60_000] * 3})
    assert [method for method, _ in worker.asked] == [wire.STATE_GET]


def test_a_resource_is_mapped_and_its_tensors_are_the_nodes_own(worker: WorkerHost) -> None:
    path = worker.root / "app/models/loras/a.safetensors"
    entries = {
        "odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},  # not aligned
    }
    header = json.dumps(entries).encode()
    data = struct.pack("<Q", len(header)) + header + b"\x07" + struct.pack("<2f", 1.5, 2.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not what the host reads")
    worker.resources["/app/models/loras/a.safetensors"] = data
    assert value(worker.execute("RFWeights")) == {"odd": [7], "w": [1.5, 2.5]}
    assert value(worker.execute("RFSpoil")) == [1.5, 2.5]


def test_a_file_that_the_host_does_not_share_is_loaded_by_this_sandbox_alone(worker: WorkerHost) -> None:
    import torch
    from safetensors.torch import save_file

    path = worker.root / "app/models/loras/a.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.ones(2)}, path)
    assert value(worker.execute("RFWeights")) == {"w": [1.0, 1.0]}
    worker.wait_for(
        lambda: "is loaded for this sandbox alone: the policy mounts nothing there" in worker.log()
    )


def test_a_node_that_fails_keeps_what_it_changed_and_its_own_error(worker: WorkerHost) -> None:
    with pytest.raises(WorkerError, match="ValueError: on purpose"):
        worker.execute("RFFailAfter", {"value": "kept"})
    assert worker.state == {"list": ["kept"]}
    with pytest.raises(WorkerError, match="ValueError: on purpose"):
        worker.execute("RFFailAfter", {"value": {wire.TAG_FLOAT: "nan"}})
    worker.wait_for(
        lambda: "the state of the failed node was not kept: state attribute list[1] is nan" in worker.log()
    )
