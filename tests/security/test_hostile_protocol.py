"""What a pack writes into its worker's own connection, from a real sandbox: it is ended, and a neighbour works on.

The frames themselves are tried one by one in ``unit/sandbox/test_manager.py`` and ``test_messages.py``; here they come
from inside, past everything that the worker would check.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sandbox import ProtocolViolationError, hostile_json
from tests.contract.kit import call, ignore
from tests.security.test_hostile_packs import FIND_SOCKET, beside_a_neighbour, one, pack

TENSOR = {"file": "0" * 32, "nbytes": 24, "dtype": "float32", "shape": [2, 3], "requires_grad": False}


def frame(message: Any) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0", **message}).encode()
    return len(body).to_bytes(4, "big") + body


def result(**changes: Any) -> bytes:
    """An answer to the call that is running: the third of a conversation, after hello and load."""
    made = {"slots": [], "ui": None, "calls": None, "blocked": [], **changes}
    return frame({"id": 3, "result": made})


#: Bytes, and what is said about them.
FRAMES: dict[str, tuple[bytes, str]] = {
    "a frame of 4 GiB": (b"\xff\xff\xff\xff", "framing"),
    "a frame of nothing": (b"\0\0\0\0", "framing"),
    "no JSON": (frame(b"hello"), "not JSON"),
    "NaN": (frame(b'{"jsonrpc":"2.0","id":3,"result":{"slots":[[NaN]]}}'), "not JSON"),
    "a key twice": (frame(b'{"jsonrpc":"2.0","id":3,"id":4,"result":1}'), "not JSON"),
    "400 levels": (frame(b"[" * 400 + b"]" * 400), "levels deep"),
    "an answer to nobody": (frame({"id": 4711, "result": {}}), "answered call 4711, which nobody made"),
    "an answer of before": (frame({"id": 1, "result": {}}), "answered call 1, which nobody made"),
    "a method of the host": (frame({"id": 5, "method": "tenant/list", "params": {}}), "a worker may not"),
    "memory below nothing": (frame({"id": 5, "method": "shm/allocate", "params": {"bytes": -1}}), "bad shm/allocate"),
    "a file of others": (frame({"method": "shm/discard", "params": {"file": "0" * 32}}), "not given"),
    "outputs of another form": (result(slots=1), "bad node result"),
    "a tensor of a file of others": (result(slots=[[{"$tensor": TENSOR}]]), "not given"),
    "a tensor of a path": (result(slots=[[{"$tensor": {**TENSOR, "file": "../../in/x"}}]]), "tensor ref|file"),
    "a tensor of less than nothing": (result(slots=[[{"$tensor": {**TENSOR, "shape": [-2, 3]}}]]), "tensor|shape"),
    "a tensor that overflows": (result(slots=[[{"$tensor": {**TENSOR, "shape": [2**62, 2**62]}}]]), "tensor|shape"),
    "a tensor of another size": (result(slots=[[{"$tensor": {**TENSOR, "nbytes": 25}}]]), "tensor of 25 bytes"),
}  # fmt: skip


@pytest.mark.docker
@pytest.mark.anyio
async def test_whatever_a_pack_writes_into_the_protocol_ends_it_by_name_and_a_neighbour_works_on(
    tmp_path: Path, isolation: str
) -> None:
    async with beside_a_neighbour(tmp_path, isolation, "evil", pack("")) as at:
        neighbour = await at.session("neighbour")
        for number, (name, (data, says)) in enumerate(FRAMES.items()):
            extension = f"evil-{number}"  # one that keeps dying would be held back
            at.policies.write(extension, f"isolation: {isolation}\ntimeouts: {{call: 20s}}\n")
            at.shelf.write(extension, pack(FIND_SOCKET + f"os.write(fds[0], {data!r})\ntime.sleep(60)"))
            session = await at.session(extension)
            with pytest.raises(ProtocolViolationError, match=says) as caught:
                await session.execute(call("Attack"), ignore)
            assert f"extension '{extension}' broke the protocol and was ended" in str(caught.value), name
            assert not session.is_alive, name
            assert one(await neighbour.execute(call("Answer"), ignore)) == 42, name
        assert at.store.usage().objects == 0


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": 1, "a": 2}',
        b'{"\\ud800": 1}', b"[" * 400 + b"]" * 400, b"[" + b"9" * 200 + b"]", b"[" + b"0," * 1_000_000 + b"0]",
    ],
    ids=["NaN", "Infinity", "-Infinity", "1e999", "twice", "surrogate", "deep", "digits", "parts"],
)  # fmt: skip
def test_without_our_checks_the_same_parser_takes_all_of_it(body: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        hostile_json.parse(body)
    assert json.loads(body) is not None
