"""The only parser of hostile input: it accepts what the protocol says, refuses the rest, and does nothing else."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import ExtensionName, SandboxId
from runtime import wire
from sandbox import (
    FastPath,
    HandleNotPortableError,
    LoadFailedError,
    NodeInterruptedError,
    NodeRaisedError,
    ProtocolViolationError,
    QuotaError,
    SandboxError,
    hostile_json,
    messages,
    take_fast_paths,
)
from sandbox.calls import Value, measure
from sandbox.fast_paths import TAKEN
from sandbox.messages import Answer, RemoteError, Request, parse_message, short_answer
from sandbox.values import Reader, constant

BOX = SandboxId("box")
PACK = ExtensionName("pack")
FILE = "0" * 32
REPORT = {"call": 1, "node_id": "1", "value": 1, "max": 2, "preview": None, "legacy": True}


def tensor(**changes: Any) -> dict[str, Any]:
    ref = {"file": FILE, "nbytes": 24, "dtype": "float32", "shape": [2, 3], "requires_grad": False}
    return {"$tensor": {**ref, **changes}}


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b"[" * 400 + b"]" * 400,
        b"9" * 200,
        b"1." + b"9" * 500,
        b'{"\\ud800": 1}',
        b"[1,]",
        b"{} {}",
    ],
)
def test_what_is_not_plain_json_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        hostile_json.parse(body)


def test_lone_surrogates_become_replacement_characters() -> None:
    assert hostile_json.parse(b'{"a": ["\\ud800x", {"b": "\\udfff"}]}') == {"a": ["\ufffdx", {"b": "\ufffd"}]}
    assert hostile_json.parse('"\ud800"'.encode("utf-8", "surrogatepass")) == "\ufffd"
    assert hostile_json.parse(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(ProtocolViolationError, match="parts"):
        hostile_json.parse(b"[" + b"0," * hostile_json.MAX_JSON_NODES + b"0]")


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(_json)
def test_ordinary_json_survives(tree: Any) -> None:
    assert hostile_json.parse(json.dumps(tree, ensure_ascii=False).encode()) == tree


def by_both_ways(body: bytes) -> list[Any]:
    def outcome(read: Any) -> Any:
        try:
            return repr(read(body))  # as text: to Python, 1 and True and 1.0 are equal
        except ProtocolViolationError as error:
            return error.message

    return [outcome(hostile_json.parse), outcome(hostile_json.parse_slowly)]


@given(_json, st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_the_short_way_reads_what_the_long_one_reads(
    tree: Any, ensure_ascii: bool, separators: tuple[str, str]
) -> None:
    body = json.dumps(tree, ensure_ascii=ensure_ascii, separators=separators).encode()
    short, long = by_both_ways(body)
    assert short == long


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}', b'{"a":1,"a":1}', b'{"\\u0061":1,"a":1}', b"[NaN]", b"[1e999]", b"[1E5]", b"[-0.0]", b"[-0]",
        b"[18446744073709551616]", b"[-9223372036854775809]", b"[" + b"9" * 200 + b"]", b'"\\ud800"', b'"\xed\xa0\x80"',
        b"[" * 260 + b"]" * 260, b"[" * 400 + b"]" * 400, b"", b"{", b"[1] ", b'["\\/"]', b"\xff", b'["\x00"]', b"null",
    ],
)  # fmt: skip
def test_the_short_way_takes_nothing_that_the_long_one_refuses_or_reads_otherwise(body: bytes) -> None:
    short, long = by_both_ways(body)
    assert short == long


def as_parsed(body: bytes) -> Answer | None:
    try:
        message = parse_message(body)
    except ProtocolViolationError:
        return None
    return message if isinstance(message, Answer) else None


@given(st.integers(-1, 2**54), _json, st.sampled_from(["result", "error"]))
def test_a_short_answer_is_what_any_reader_of_messages_finds(identity: int, tree: Any, key: str) -> None:
    frame = {"jsonrpc": "2.0", "id": identity, key: tree}
    body = json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()
    assert repr(short_answer(body)) == repr(as_parsed(body))


@pytest.mark.parametrize(
    "rest",
    [
        b'"id":1,"result":1}', b'"id":1,"result":null}', b'"id":1,"result":1,"result":2}', b'"id":1,"result":1,"id":2}',
        b'"id":1,"result":1,"error":2}', b'"id":1,"result":1,"method":"log"}', b'"id":1,"result":1,"jsonrpc":"1.0"}',
        b'"id":1,"result":1', b'"id":1,"result":NaN}', b'"id":1,"result":-0}', b'"id":01,"result":1}',
        b'"id":9007199254740993,"result":1}', b'"id":9999999999999999,"result":1}', b'"id":1,"result":"\\ud800"}',
        b'"id":1,"result":{"a":1,"a":2}}', b'"id":1,"error":{"code":-1,"message":"no"}}', b'"id":1,"error":3}',
        b'"id":1,"result":' + b"[" * 400 + b"]" * 400 + b"}", b'"id":1,"result":' + b"9" * 200 + b"}",
    ],
)  # fmt: skip
def test_no_broken_answer_is_taken_for_a_short_one(rest: bytes) -> None:
    body = b'{"jsonrpc":"2.0",' + rest
    assert repr(short_answer(body)) == repr(as_parsed(body))


@given(_json)
def test_plain_leaves_nothing_that_a_64_bit_encoder_refuses(tree: Any) -> None:
    import orjson

    orjson.dumps(hostile_json.plain(tree))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_a_violation(body: bytes) -> None:
    try:
        message = parse_message(body)
    except ProtocolViolationError:
        return
    assert isinstance(message, Request | Answer)


@given(
    st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "x"]),
        _json | st.sampled_from(["2.0", *wire.WORKER_METHODS]),
    )
)
def test_any_object_is_a_message_or_a_violation(tree: Any) -> None:
    try:
        message = parse_message(json.dumps(tree).encode())
    except ProtocolViolationError:
        return
    if isinstance(message, Request):
        assert message.method in wire.WORKER_METHODS


# -- the envelope --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {"jsonrpc": "1.0", "id": 1, "result": 1},
        {"id": 1, "result": 1},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "result": 1, "error": {"code": 1, "message": ""}},
        {"jsonrpc": "2.0", "id": True, "result": 1},
        {"jsonrpc": "2.0", "id": "1", "result": 1},
        {"jsonrpc": "2.0", "id": 1.0, "result": 1},
        {"jsonrpc": "2.0", "id": -1, "result": 1},
        {"jsonrpc": "2.0", "id": 2**60, "result": 1},
        {"jsonrpc": "2.0", "result": 1},
        {"jsonrpc": "2.0", "id": 1, "result": 1, "more": 1},
        {"jsonrpc": "2.0", "method": "node/execute", "params": {}},
        {"jsonrpc": "2.0", "method": "__class__", "params": {}},
        {"jsonrpc": "2.0", "method": ["log"], "params": {}},
        {"jsonrpc": "2.0", "method": "log", "params": [1]},
        {"jsonrpc": "2.0", "id": None, "method": "log", "params": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": "x", "message": ""}},
    ],
)
def test_malformed_envelopes_are_violations(tree: Any) -> None:
    with pytest.raises(ProtocolViolationError):
        parse_message(json.dumps(tree).encode())


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (messages.Allocate, {"bytes": -1}),
        (messages.Allocate, {"bytes": True}),
        (messages.Allocate, {"bytes": "8"}),
        (messages.Allocate, {"bytes": 2**60}),
        (messages.Allocate, {"bytes": 1, "directory": "/etc"}),
        (messages.Discard, {"file": "../../etc/passwd"}),
        (messages.Discard, {"file": FILE + "\n"}),
        (messages.LogPiece, {"stream": "protocol", "text": "", "dropped": 0}),
        (messages.LogPiece, {"stream": "stdout", "text": "x" * 1_000_001, "dropped": 0}),
        (
            messages.ProgressReport,
            {"call": 1, "node_id": "", "value": 1, "max": 2, "preview": None, "legacy": True},
        ),
        (
            messages.ProgressReport,
            {"call": 1, "node_id": "1", "value": 1e300, "max": 2, "preview": None, "legacy": True},
        ),
        (messages.Preview, {"format": "SVG", "file": FILE, "nbytes": 10}),
        (messages.Preview, {"format": "PNG", "file": FILE, "nbytes": 1 << 40}),
        (messages.SentEvent, {"event": "x" * 200, "data": None, "sid": None}),
    ],
)
def test_requests_outside_the_protocol_are_violations(model: Any, data: Any) -> None:
    with pytest.raises(ProtocolViolationError):
        messages.checked(model, data, "request")


# -- values --------------------------------------------------------------------------------------------------


def read(tree: Any) -> Any:
    return Reader(BOX).read(tree)


@pytest.mark.parametrize(
    "tree",
    [
        tensor(nbytes=23),
        tensor(nbytes=24.0),
        tensor(nbytes=True),
        tensor(shape=[2, -3]),
        tensor(shape=[2, 3.0]),
        tensor(shape=[True, 24]),
        tensor(shape=[2**46, 2**46]),
        tensor(shape=[2**63]),
        tensor(shape=[1] * 65),
        tensor(shape="23"),
        tensor(shape=None),
        tensor(dtype="object"),
        tensor(dtype=["float32"]),
        tensor(dtype="float32 "),
        tensor(file="../x"),
        tensor(file=FILE.upper() + "A"),
        tensor(file=None),
        tensor(requires_grad=1),
        tensor(extra=1),
        {"$tensor": tensor()["$tensor"], "b": 1},
        {"$tensor": None},
        {"$unknown": 1},
        {"$tuple": {}},
        {"$dict": [[1]]},
        {"$dict": {"a": 1}},
        {"$float": "NaN"},
        {"$float": ["nan"]},
        {"$float": 1.0},
        {"$complex": [1]},
        {"$complex": [1, "2"]},
        {"$complex": [1, True]},
        {"$scalar": {"dtype": "os.system('x')", "value": 1}},
        {"$scalar": {"dtype": "<f4", "value": []}},
        {"$scalar": {"dtype": "<f4", "value": {"$tensor": {}}}},
        {"$bytes": {"file": FILE, "nbytes": 4}},
        {"$bytes": {"file": None, "nbytes": 4, "mutable": False}},
        {"$str": {"file": FILE, "nbytes": -4}},
        {"$json": {"file": None, "nbytes": 0}},
        {"$handle": {"id": "1", "type": "x"}},
        {"$handle": {"id": -1, "type": "x"}},
        {"$handle": {"id": 1, "type": "x", "sandbox": "b", "y": 1}},
        {"$handle": 1},
        {"$blocker": 3},
        [tensor(), tensor(nbytes=48, shape=[4, 3])],
    ],
)
def test_values_outside_the_protocol_are_violations(tree: Any) -> None:
    with pytest.raises(ProtocolViolationError):
        read(tree)


def test_nesting_is_bounded() -> None:
    tree: Any = 1
    for _ in range(wire.MAX_DEPTH):
        tree = [tree]
    read(tree)
    with pytest.raises(ProtocolViolationError, match="levels"):
        read([tree])


def test_a_json_file_holds_no_further_json_file() -> None:
    assert read({"$json": {"file": FILE, "nbytes": 9}}).json_files == {FILE: 9}
    with pytest.raises(ProtocolViolationError, match="inside"):
        Reader(BOX, nested=True).read({"$json": {"file": FILE, "nbytes": 9}})


def test_files_and_handles_are_collected_and_a_handle_belongs_to_who_sent_it() -> None:
    parsed = read(
        {
            "a": [tensor(), tensor()],
            "b": {"$tuple": [{"$handle": {"id": 7, "type": "M\x1b[31m", "sandbox": "other"}}]},
        }
    )
    assert parsed.files == {FILE: 24}
    assert parsed.nbytes == 24
    assert list(parsed.handles) == [7]
    assert parsed.tree["b"]["$tuple"][0]["$handle"] == {"id": 7, "type": "M\\x1b[31m", "sandbox": "box"}


@pytest.mark.parametrize("shape", [[], [0], [0, 2**46], [3, 0, 2]])
def test_scalars_and_empty_tensors_are_tensors(shape: list[int]) -> None:
    nbytes = 4 if shape == [] else 0
    read(tensor(shape=shape, nbytes=nbytes, file=FILE if nbytes else None))


@given(_json)
def test_any_json_is_a_value_or_a_violation(tree: Any) -> None:
    try:
        read(tree)
    except ProtocolViolationError:
        return


@given(_json)
def test_constants_are_values_whatever_keys_a_user_writes(tree: Any) -> None:
    assert read(constant({"$tensor": tree, "x": tree})).files == {}
    read(constant(tree))


@given(
    st.sampled_from(sorted(wire.ITEMSIZE)),
    st.lists(st.integers(0, 2**20), max_size=5),
    st.integers(-1, 1),
)
def test_a_tensor_is_accepted_exactly_when_shape_times_itemsize_is_its_size(
    dtype: str, shape: list[int], off: int
) -> None:
    nbytes = wire.ITEMSIZE[dtype]
    for size in shape:
        nbytes *= size
    file = FILE if nbytes + off else None
    tree = tensor(dtype=dtype, shape=shape, nbytes=nbytes + off, file=file)
    if off == 0 and nbytes <= 2**46:
        assert read(tree).nbytes == nbytes
    else:
        with pytest.raises(ProtocolViolationError):
            read(tree)


# -- answers -------------------------------------------------------------------------------------------------


def executed(**changes: Any) -> dict[str, Any]:
    return {"slots": [[1]], "ui": None, "calls": None, "blocked": [], **changes}


def parse_executed(result: Any) -> Any:
    return messages.executed(result, BOX, max_values=3, max_expansion=2)


@pytest.mark.parametrize(
    "result",
    [
        None,
        {},
        executed(slots=None),
        executed(calls=[]),
        executed(ui=[]),
        executed(blocked=[{"index": -1, "message": ""}]),
        executed(slots=[1]),
        executed(slots=[[tensor(nbytes=1)]]),
        executed(slots=None, calls=[{"result": [], "expand": {"": {"class_type": "A", "inputs": {}}}}]),
        executed(more=1),
    ],
)
def test_results_outside_the_protocol_are_violations(result: Any) -> None:
    assert messages.executed_plainly(result, max_values=3) is None
    with pytest.raises(ProtocolViolationError):
        parse_executed(result)


def test_results_over_the_policys_counts_are_quota_errors() -> None:
    with pytest.raises(QuotaError, match=r"4 values.*allows 3"):
        parse_executed(executed(slots=[[1, 2], [3, 4]]))
    grown = {str(number): {"class_type": "A", "inputs": {}} for number in range(3)}
    with pytest.raises(QuotaError, match=r"expands into 3 nodes.*allows 2"):
        parse_executed(executed(slots=None, calls=[{"result": [], "expand": grown}]))


_shown = st.dictionaries(
    st.text(max_size=5),
    st.lists(_json | st.dictionaries(st.text(max_size=5), _json, max_size=3), max_size=3) | _json,
    max_size=3,
)


@given(st.lists(st.lists(_json, max_size=2), max_size=4), st.none() | _shown)
def test_what_is_read_plainly_is_what_is_read_with_all_care(slots: list[list[Any]], ui: Any) -> None:
    said = executed(slots=slots, ui=ui)
    plainly = messages.executed_plainly(said, max_values=3)
    if plainly is not None:
        with_care = parse_executed(said)
        assert (repr(with_care.ui), with_care.calls, with_care.blocked) == (repr(plainly.ui), None, ())
        slots_with_care = [
            [repr(Value(read.tree, weight=read.weight)) for read in slot] for slot in with_care.slots or ()
        ]
        assert [[repr(value) for value in slot] for slot in plainly.slots or ()] == slots_with_care
        assert (plainly.calls, plainly.blocked) == (None, ())


@given(st.lists(st.lists(_json, max_size=2) | _json, max_size=3), st.sampled_from([None, {}, [], 0]))
def test_a_result_of_slots_alone_is_read_as_by_the_model(slots: list[Any], other: Any) -> None:
    outcomes = []
    for paths in (FastPath, ()):
        with fast_paths(paths):
            outcomes.append(
                [
                    outcome_of(said)
                    for said in (
                        executed(slots=slots),
                        executed(slots=slots, ui=other),
                        executed(slots=slots, blocked=other),
                        executed(slots=slots, more=other),
                        executed(slots=other),
                    )
                ]
            )
    assert outcomes[0] == outcomes[1]


@contextmanager
def fast_paths(paths: Iterable[FastPath]) -> Iterator[None]:
    before = set(TAKEN)
    take_fast_paths(paths)
    try:
        yield
    finally:
        take_fast_paths(before)


def outcome_of(said: Any) -> str:
    try:
        return repr(parse_executed(said))
    except (ProtocolViolationError, QuotaError, HandleNotPortableError) as error:
        return type(error).__name__


@pytest.mark.usefixtures("every_fast_path")
def test_numbers_and_short_texts_are_read_plainly_and_nothing_else_is() -> None:
    plain = [[1], [2.5], ["text"]]
    assert messages.executed_plainly(executed(slots=plain), max_values=3) is not None
    for other in ([["x" * 1000]], [["\u202e"]], [[1, 2]], [[]], [[[1]]], [[{"$tuple": []}]], [[1]] * 4):
        assert messages.executed_plainly(executed(slots=other), max_values=3) is None


@pytest.mark.usefixtures("every_fast_path")
def test_what_most_nodes_show_is_read_plainly_and_nothing_else_is() -> None:
    image = {"filename": "a.png", "subfolder": "", "type": "output"}
    for plain in (
        {},
        {"images": [image] * 20, "animated": [True]},
        {"text": ["\u202e" * 1000, 1, 2.5, None]},
    ):
        read = messages.executed_plainly(executed(ui=plain), max_values=3)
        assert read is not None
        assert read.ui == parse_executed(executed(ui=plain)).ui == plain
    for other in (
        [],
        {"images": image},
        {"images": [[image]]},
        {"images": [{"of": [1]}]},
        {"value": [2**63]},
        {"value": [{"of": -(2**63) - 1}]},
        {"value": [1] * 201},
        {str(number): [] for number in range(201)},
    ):
        assert messages.executed_plainly(executed(ui=other), max_values=3) is None


def test_an_expansion_is_read_with_its_values() -> None:
    node = {"class_type": "A", "inputs": {"x": tensor(), "l": ["0", 1]}, "override_display_id": "5"}
    parsed = parse_executed(executed(slots=None, calls=[{"result": [["0", 0]], "expand": {"0": node}}]))
    assert [value.files for value in parsed.values()] == [{}, {FILE: 24}, {}]


def test_another_protocol_version_says_to_rebuild_the_image() -> None:
    said = {"protocol": 99, "python": None, "numpy": None, "torch": None, "pid": 1}
    with pytest.raises(ProtocolViolationError, match="rebuild the node image"):
        messages.hello(said)


# -- failures ------------------------------------------------------------------------------------------------

FAILED = {"type": "ValueError", "message": "no \x1b[2J", "traceback": ["a\nb"], "inputs": {"x": ["1"]}}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (wire.NODE_RAISED, NodeRaisedError),
        (wire.OUT_OF_MEMORY, NodeRaisedError),
        (wire.UNKNOWN_NODE, NodeRaisedError),
        (wire.VALUE_NOT_PORTABLE, NodeRaisedError),
        (wire.INTERRUPTED, NodeInterruptedError),
        (wire.LOAD_FAILED, LoadFailedError),
        (wire.QUOTA_EXCEEDED, QuotaError),
        (wire.UNKNOWN_HANDLE, SandboxError),
    ],
)
def test_error_codes_map_to_classes_through_a_closed_table(code: int, kind: type[Exception]) -> None:
    error = messages.failure(RemoteError(code=code, message="no", data=FAILED), PACK)
    assert type(error) is kind
    assert "\x1b" not in str(error)


def test_an_error_code_outside_the_table_is_a_violation() -> None:
    with pytest.raises(ProtocolViolationError):
        messages.failure(RemoteError(code=-32601, message="no"), PACK)


def test_a_nodes_error_keeps_type_traceback_and_inputs_as_safe_text() -> None:
    error = messages.failure(RemoteError(code=wire.NODE_RAISED, message="", data=FAILED), PACK)
    assert isinstance(error, NodeRaisedError)
    assert (error.exception_type, error.traceback, error.inputs) == ("ValueError", ("a\nb",), {"x": ["1"]})
    assert error.message == "no \\x1b[2J"


def test_plain_inputs_of_an_error_stay_plain_within_what_the_host_can_store() -> None:
    inputs = {"x": [None, True, 3, 2.5, "a\x1b", 10**40]}
    error = messages.failure(
        RemoteError(code=wire.NODE_RAISED, message="", data={**FAILED, "inputs": inputs}), PACK
    )
    assert isinstance(error, NodeRaisedError)
    assert error.inputs == {"x": [None, True, 3, 2.5, "a\\x1b", 1e40]}
    assert [type(item) for item in error.inputs["x"]] == [type(None), bool, int, float, str, float]


def test_an_error_whose_details_are_not_ours_is_a_violation() -> None:
    with pytest.raises(ProtocolViolationError):
        messages.failure(RemoteError(code=wire.NODE_RAISED, message="", data={"traceback": 3}), PACK)


def test_the_frame_header_is_a_big_endian_u32() -> None:
    assert wire.HEADER.format in (">I", b">I")
    assert struct.unpack(">I", wire.encode_frame({})[:4]) == (2,)


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "event/send", "params": {"data": "x" * wire.MAX_NOTIFICATION}},
        {"jsonrpc": "2.0", "id": 1, "method": "shm/allocate", "params": {"x": "x" * wire.MAX_NOTIFICATION}},
        {"id": 1, "jsonrpc": "2.0", "result": "x" * wire.MAX_NOTIFICATION},
    ],
)
def test_only_an_answer_may_be_long_and_others_are_not_even_parsed(
    message: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile_json, "parse", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(ProtocolViolationError, match="that is no answer"):
        parse_message(json.dumps(message, separators=(",", ":")).encode())


@pytest.mark.parametrize("kind", ["result", "error"])
def test_a_long_answer_is_read(kind: str) -> None:
    content = {"code": 1, "message": "x" * wire.MAX_NOTIFICATION}
    frame = wire.encode_frame({"jsonrpc": "2.0", "id": 7, kind: content})
    assert isinstance(parse_message(frame[wire.HEADER.size :]), Answer)


def test_a_long_answer_that_turns_out_to_be_a_request_is_refused() -> None:
    body = wire.encode_frame(
        {"jsonrpc": "2.0", "id": 7, "result": "x" * wire.MAX_NOTIFICATION, "method": "log", "params": {}}
    )[wire.HEADER.size :]
    with pytest.raises(ProtocolViolationError, match="malformed"):
        parse_message(body)


def test_brackets_and_commas_cost_more_than_text() -> None:
    assert hostile_json.cost(b"x" * 1000) == 1000
    assert hostile_json.cost(b"[],{}," * 100) == 600 + 400 * hostile_json.PART_COST


def test_a_tree_weighs_about_what_it_takes() -> None:
    assert measure(None) == (1, 100)
    assert measure([{"a": 0}] * 1000) == (2001, 201_100)
    assert measure({"\u00e9": "\u00e9" * 1000}) == (2, 4201)


def test_a_node_result_has_a_weight_and_a_most_of_parts() -> None:
    def result(slots: Any, ui: Any = None) -> messages.ParsedResult:
        said = {"slots": slots, "ui": ui, "calls": None, "blocked": []}
        return messages.executed(said, BOX, max_values=10, max_expansion=1)

    assert result([[[[]] * 1000]]).slots[0][0].weight == 100_100  # type: ignore[index]
    half = [0] * (messages.MAX_RESULT_PARTS // 2)
    for slots, ui in (([[half, half]], None), ([[half], [half]], None), ([[half]], {"a": half})):
        with pytest.raises(QuotaError, match="too many values"):
            result(slots, ui)
    assert result([[half]], {"a": half[100:]}).ui is not None
