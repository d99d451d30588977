"""Prompts and bodies that are wrong: a clear 4xx each, and nothing of them stays."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.e2e.comfy import Comfy, node, once_allowed, succeeded
from tests.stack import Have, Stack

DEEP = b'{"prompt":' + b'{"a":' * 5000 + b"1" + b"}" * 5001


@pytest.fixture(autouse=True)
def nothing_stays(comfy: Comfy, have: Have) -> Iterator[None]:
    """Nothing is queued, nothing is in the history, and a good prompt runs."""
    have("friendly_v1")
    before = comfy.get("/history").keys()
    yield
    queue = comfy.get("/queue")
    assert (queue["queue_running"], queue["queue_pending"]) == ([], [])
    assert comfy.get("/history").keys() == before
    succeeded(comfy.run({"1": node("RFReport", text="fine")}))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"prompt": NaN}', "no_prompt"),
        (b"[" * 129 + b"]" * 129, "invalid_json"),
        (DEEP, "invalid_json"),
        (b"[]", "no_prompt"),
        (b"{}", "no_prompt"),
        (b'{"prompt": 5}', "invalid_prompt"),
        (b'{"prompt": {"1": 5}}', "invalid_prompt"),
        (b'{"prompt": {}}', "prompt_no_outputs"),
        (b'{"prompt": {"1": {"inputs": {}}}}', "missing_node_type"),
    ],
    ids=lambda part: part[:24].decode(errors="replace") if isinstance(part, bytes) else part,
)
@pytest.mark.parametrize("path", ["/prompt", "/api/prompt"])
def test_a_body_that_is_no_prompt_is_refused_with_its_reason(
    comfy: Comfy, path: str, body: bytes, kind: str
) -> None:
    answer = comfy.http.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == kind
    assert answer.json()["error"]["message"]


def refused(comfy: Comfy, prompt: Any) -> dict[str, Any]:
    answer = comfy.post("/prompt", {"prompt": prompt})
    assert answer.status_code == 400
    body: dict[str, Any] = answer.json()
    return body


def test_an_unknown_node_is_named(comfy: Comfy) -> None:
    error = refused(comfy, {"7": node("NobodyHasThis")})["error"]
    assert error["type"] == "missing_node_type"
    assert "NobodyHasThis" in error["message"]
    assert error["extra_info"]["node_id"] == "7"


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("invalid_input_type", {"seconds": "many"}),
        ("invalid_input_type", {"seconds": {"no": 1}}),
        ("value_bigger_than_max", {"seconds": 61}),
        ("value_smaller_than_min", {"seconds": -1}),
        ("return_type_mismatch", {"seconds": ["3", 0]}),
        ("bad_linked_input", {"seconds": ["3"]}),
        ("required_input_missing", {}),
        ("dependency_cycle", {"seconds": ["2", 0]}),
    ],
)
def test_an_input_that_does_not_fit_is_named_with_its_node(
    comfy: Comfy, have: Have, kind: str, inputs: dict[str, Any]
) -> None:
    have("friendly_v3")
    prompt = {
        "1": node("RFReportV3", value=["2", 0]),
        "2": node("RFWait", **inputs),
        "3": node("RFAdd", a=1, b=1),
    }
    body = refused(comfy, prompt)
    assert body["error"]["type"] == "prompt_outputs_failed_validation"
    assert body["node_errors"]["2"]["class_type"] == "RFWait"
    assert kind in {error["type"] for error in body["node_errors"]["2"]["errors"]}


def test_what_a_node_itself_does_not_accept_is_refused_in_its_words(comfy: Comfy) -> None:
    prompt = {"1": node("RFAdd", a=13, b=1), "2": node("PreviewAny", source=["1", 0])}
    errors = refused(comfy, prompt)["node_errors"]["1"]["errors"]
    assert {error["type"] for error in errors} == {"custom_validation_failed"}
    text = "13 is not a number that we add"  # as in ComfyUI, once for each argument of the validator
    assert [error["details"] for error in errors] == [f"a - {text}", f"input_types - {text}"]


def test_a_link_to_a_node_that_is_not_there_is_refused(comfy: Comfy) -> None:
    prompt = {"1": node("PreviewAny", source=["9", 0])}
    (error,) = refused(comfy, prompt)["node_errors"]["1"]["errors"]
    assert "['9', 0]" in error["details"]


def test_a_file_that_is_not_there_is_refused_before_anything_runs(comfy: Comfy) -> None:
    prompt = {"1": node("LoadImage", image="nobody.png"), "2": node("PreviewImage", images=["1", 0])}
    assert refused(comfy, prompt)["node_errors"]["1"]["errors"]


def test_a_body_of_100_mb_is_refused_at_once_when_it_is_announced(stack: Stack) -> None:
    # Not one byte of the body was sent.
    assert said_to_a_body(stack, "Content-Length: 100000000").startswith(b"HTTP/1.1 413 ")


def test_a_body_that_grows_over_the_limit_unannounced_is_refused_before_it_ends(stack: Stack) -> None:
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    # MiB; the limit is 32, and the end of the body is never sent.
    assert said_to_a_body(stack, "Transfer-Encoding: chunked", [piece] * 40).startswith(b"HTTP/1.1 413 ")


def said_to_a_body(stack: Stack, header: str, pieces: Sequence[bytes] = ()) -> bytes:
    """How the answer to a prompt begins whose body has no end; waits where the requests of a second are used up."""
    port = int(stack.url.rsplit(":", 1)[1])
    head = f"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{header}\r\n\r\n".encode()

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            for piece in (head, *pieces):
                connection.sendall(piece)
            return connection.recv(4096)

    return once_allowed(ask, lambda answer: 1.0 if answer.startswith(b"HTTP/1.1 429 ") else None)


def test_a_number_of_5000_digits_does_no_harm(comfy: Comfy) -> None:
    body = b'{"prompt": {"1": {"class_type": "RFReport", "inputs": {"text": ' + b"9" * 5000 + b"}}}}"
    assert comfy.http.post("/prompt", content=body).status_code == 400


def test_a_prompt_id_that_is_no_uuid_or_taken_is_refused(comfy: Comfy) -> None:
    prompt = {"1": node("RFReport", text="x")}
    for wanted in ("../../x", "x" * 100, 5):
        answer = comfy.post("/prompt", {"prompt": prompt, "prompt_id": wanted})
        assert answer.status_code == 400, answer.text
        assert json.loads(answer.text)["error"]["type"]
