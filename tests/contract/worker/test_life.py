"""How a worker starts and ends, and what a pack can do to it on the way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from runtime import wire
from tests.contract.worker.conftest import TRANSPORTS
from tests.contract.worker.workerhost import PATIENCE_S, ROOT, WorkerError, WorkerHost

StartWorker = Callable[..., WorkerHost]


def pack(directory: Path, source: str, name: str = "pack") -> Path:
    """A pack made of one ``__init__.py``."""
    place = directory / name
    place.mkdir(parents=True)
    (place / "__init__.py").write_text(dedent(source))
    return place


NODE = """
    class Node:
        RETURN_TYPES = ("STRING",)
        FUNCTION = "run"
        CATEGORY = "test"
        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}
"""


def node(body: str) -> str:
    """A pack whose one node ``N`` runs ``body`` and returns ``out``."""
    indented = "\n".join("            " + line for line in dedent(body).strip().splitlines())
    return (
        NODE
        + f"        def run(self):\n{indented}\n            return (out,)\n    NODE_CLASS_MAPPINGS = {{'N': Node}}\n"
    )


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHost]:
    """One worker for many small failures: that it lasts is part of what is tested."""
    host = WorkerHost(tmp_path_factory.mktemp("lasting") / "worker")
    host.hello()
    yield host
    host.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_hello_names_versions_and_torch_is_not_imported_for_it(
    start_worker: StartWorker, transport: str
) -> None:
    host = start_worker(transport, hello=False)
    answer = host.hello()
    assert answer["protocol"] == wire.PROTOCOL_VERSION
    assert answer["python"] == ".".join(map(str, sys.version_info[:3]))
    assert answer["pid"] == host.process.pid
    assert answer["torch"]
    assert "torch" not in Path(f"/proc/{host.process.pid}/maps").read_text()


def test_another_protocol_version_is_refused(start_worker: StartWorker) -> None:
    host = start_worker(hello=False)
    with pytest.raises(WorkerError, match="protocol 99"):
        host.call(wire.HELLO, {"protocol": 99, "sandbox": "s", "out_limit": 1})


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_bye_ends_it_with_status_0(start_worker: StartWorker, transport: str) -> None:
    host = start_worker(transport)
    assert host.call(wire.BYE) == {}
    assert host.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_host_hanging_up_ends_it_even_while_a_node_runs(
    start_worker: StartWorker, transport: str
) -> None:
    host = start_worker(transport)
    host.load("never_returns")
    host.start(wire.EXECUTE, host.params("RFNeverReturns"))
    host.hang_up()
    assert host.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x09half"])
def test_a_broken_stream_ends_it_with_a_word_on_its_own_stderr(
    start_worker: StartWorker, transport: str, data: bytes
) -> None:
    host = start_worker(transport)
    host.send_bytes(data)
    host.hang_up()
    assert host.process.wait(PATIENCE_S) == 70
    assert "ringfence worker: protocol error" in host.own_stderr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--transport", "pigeon"], "neither socket nor stdio"),
        (["--exec", "x"], "unknown or incomplete option"),
        (["--socket"], "unknown or incomplete option"),
        (["--socket", "/nonexistent/s"], "cannot reach the host"),
    ],
)
def test_a_worker_that_cannot_start_says_why(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "runtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert said in done.stderr


# -- loading that goes wrong -------------------------------------------------------------------------------------------


def test_an_import_that_raises_or_exits_is_an_error_and_the_worker_lives_on(
    start_worker: StartWorker,
) -> None:
    host = start_worker()
    with pytest.raises(WorkerError, match="RuntimeError: this pack needs") as caught:
        host.load("raises_on_import")
    assert caught.value.code == wire.LOAD_FAILED
    assert caught.value.data["type"] == "RuntimeError"
    assert len(caught.value.data["traceback"]) == 1
    with pytest.raises(WorkerError, match="SystemExit: please install") as caught:
        host.load("exits_on_import")
    assert caught.value.code == wire.LOAD_FAILED
    assert host.load("flow")["api"] == "v1"


def test_an_import_that_takes_the_process_down_is_seen_as_its_end(start_worker: StartWorker) -> None:
    host = start_worker()
    with pytest.raises(EOFError):
        host.load("dies_on_import")
    assert host.process.wait(PATIENCE_S) == 3


def test_a_worker_whose_import_hangs_still_answers_and_ends(start_worker: StartWorker) -> None:
    host = start_worker()
    request = host.start(
        wire.LOAD, {"name": "h", "path": str(ROOT / "tests/extensions/hangs_on_import"), "core": False}
    )
    assert host.call(wire.DESCRIBE, {"class_types": None}) == {"nodes": [], "skipped": [], "more": None}
    assert host.call(wire.BYE) == {}
    with pytest.raises(EOFError):
        host.result(request)
    assert host.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", "neither NODE_CLASS_MAPPINGS nor comfy_entrypoint"),
        ("async def comfy_entrypoint(): return 5", "get_node_list"),
        ("import nothing_that_exists", "No module named 'nothing_that_exists'"),
        ("def (:", "SyntaxError"),
        ("def f(): return f()\nf()", "RecursionError"),
    ],
)
def test_packs_that_are_none_are_told_why(
    start_worker: StartWorker, tmp_path: Path, source: str, said: str
) -> None:
    host = start_worker()
    with pytest.raises(WorkerError, match=said) as caught:
        host.load("pack", pack(tmp_path, source))
    assert caught.value.code == wire.LOAD_FAILED


def test_a_folder_without_a_module_and_a_path_that_does_not_exist_are_load_errors(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    host = start_worker()
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(WorkerError) as caught:
            host.load(place.name, place)
        assert caught.value.code == wire.LOAD_FAILED


# -- nodes that go wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("import sys; sys.exit('enough')", wire.NODE_RAISED, "SystemExit: enough"),
        ("raise KeyboardInterrupt", wire.NODE_RAISED, "KeyboardInterrupt"),
        ("raise MemoryError('no more')", wire.OUT_OF_MEMORY, "MemoryError"),
        ("import torch; raise torch.OutOfMemoryError('gpu full')", wire.OUT_OF_MEMORY, "gpu full"),
        (
            "import comfy.model_management as m; raise m.InterruptProcessingException",
            wire.INTERRUPTED,
            "interrupted",
        ),
        ("return None", wire.NODE_RAISED, "returned None"),
        ("return 5", wire.NODE_RAISED, "returned int"),
        ("import torch; out = torch.eye(2).to_sparse()", wire.VALUE_NOT_PORTABLE, "to_dense"),
        (
            "raise type('Odd', (Exception,), {'__str__': lambda s: 1 / 0})()",
            wire.NODE_RAISED,
            "cannot be printed",
        ),
        ("raise ValueError('x' * 10_000_000)", wire.NODE_RAISED, "xxx"),
        ("raise ValueError('\\ud800')", wire.NODE_RAISED, "ValueError: ?"),
        ("return {'ui': {'a': 5}}", wire.NODE_RAISED, "must be a list"),
        ("return {'expand': {'1': {}}}", wire.NODE_RAISED, "no class_type"),
    ],
)
def test_a_node_that_fails_oddly_fails_alone(
    lasting: WorkerHost, tmp_path: Path, body: str, code: int, said: str
) -> None:
    name = f"N{len(list(lasting.root.glob('app/custom_nodes/*')))}"
    lasting.load(name, pack(tmp_path, node(f"out = None\n{body}").replace("'N'", repr(name)), name))
    for _ in range(2):
        with pytest.raises(WorkerError) as caught:
            lasting.execute(name)
        assert caught.value.code == code
        assert said in str(caught.value)


def test_sys_exit_in_a_coroutine_node_leaves_the_loop_running(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    source = node("raise SystemExit(1)").replace("def run", "async def run")
    host = start_worker()
    host.load("pack", pack(tmp_path, source))
    for _ in range(2):
        with pytest.raises(WorkerError, match="SystemExit"):
            host.execute("N")


def test_what_is_printed_before_a_failure_still_arrives(start_worker: StartWorker, tmp_path: Path) -> None:
    host = start_worker()
    host.load("pack", pack(tmp_path, node("print('last words', end='')\nraise ValueError")))
    with pytest.raises(WorkerError):
        host.execute("N")
    assert host.log("stdout") == "last words"


def test_a_result_that_fits_no_frame_is_an_error_of_the_node(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    source = node("out = list(range(700_000))").replace(
        "RETURN_TYPES", "OUTPUT_IS_LIST = (True,)\n        RETURN_TYPES"
    )
    host = start_worker()
    host.load("pack", pack(tmp_path, source))
    with pytest.raises(WorkerError, match="too many values") as caught:
        host.execute("N")
    assert caught.value.code == wire.VALUE_NOT_PORTABLE


def test_a_ui_object_too_large_for_a_frame_is_left_out_and_the_log_says_so(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    host = start_worker()
    host.load("pack", pack(tmp_path, node("return {'ui': {'a': ['x' * 5_000_000]}, 'result': ('kept',)}")))
    result = host.execute("N")
    assert (result["slots"], result["ui"]) == ([["kept"]], None)
    assert "ui object of 50000" in host.log("stderr")


@pytest.mark.parametrize("ending", ["return (out,)", "raise ValueError", "return None"])
def test_inputs_are_let_go_with_the_call_even_when_it_fails(
    start_worker: StartWorker, tmp_path: Path, ending: str
) -> None:
    source = node(f"out = len(big)\n{ending}").replace("def run(self)", "def run(self, big)")
    host = start_worker()
    host.load("pack", pack(tmp_path, source.replace('"required": {}', '"required": {"big": ("*",)}')))
    name = host.files.put(b"\0" * 1_000_000)
    ref = {"file": name, "nbytes": 1_000_000, "dtype": "uint8", "shape": [1_000_000], "requires_grad": False}
    request = host.start(wire.EXECUTE, host.params("N", {"big": {wire.TAG_ARRAY: ref}}))
    if ending == "return (out,)":
        assert host.result(request)["slots"] == [[1_000_000]]
    else:
        with pytest.raises(WorkerError) as caught:
            host.result(request)
        assert caught.value.data["inputs"] == {"big": ["ndarray([1000000], uint8)"]}
    assert name not in Path(f"/proc/{host.process.pid}/maps").read_text()


# -- descriptors and children ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_child_processes_get_three_descriptors_and_none_is_the_protocol(
    start_worker: StartWorker, tmp_path: Path, transport: str
) -> None:
    code = """
    import subprocess, sys
    listing = '''
    import os
    names = os.listdir("/proc/self/fd")
    print([(fd, os.readlink(f"/proc/self/fd/{fd}")) for fd in names if os.path.lexists(f"/proc/self/fd/{fd}")])
    '''
    command = [sys.executable, "-c", "if True:" + listing]
    out = subprocess.run(command, stdout=subprocess.PIPE, close_fds=False, text=True).stdout
    """
    host = start_worker(transport)
    host.load("pack", pack(tmp_path, node(code)))
    listing: list[tuple[str, str]] = ast.literal_eval(host.execute("N")["slots"][0][0])
    assert sorted(fd for fd, target in listing if not target.startswith("/proc/")) == ["0", "1", "2"]
    assert not any(target.startswith("socket:") for _, target in listing)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_forked_child_cannot_speak_for_the_worker_or_hold_the_stream_open(
    start_worker: StartWorker, tmp_path: Path, transport: str
) -> None:
    code = """
    import os, comfy.utils
    child = os.fork()
    if child == 0:
        print("from the fork", flush=True)
        comfy.utils.ProgressBar(1).update_absolute(1, 1)
        os.read(0, 1)
        import signal; signal.alarm(60); signal.pause()
    out = child
    """
    host = start_worker(transport)
    host.load("pack", pack(tmp_path, node(code)))
    child = host.execute("N")["slots"][0][0]
    try:
        host.wait_for(lambda: "from the fork" in host.log("stdout"))
        assert host.said(wire.PROGRESS) == []
        host.process.kill()
        host.wait_for(lambda: host.ended)
    finally:
        os.kill(child, 9)


def test_a_crash_in_native_code_leaves_its_traceback_on_the_workers_own_stderr(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    host = start_worker()
    host.load("pack", pack(tmp_path, node("import ctypes; out = ctypes.string_at(0)")))
    with pytest.raises(EOFError):
        host.execute("N")
    assert host.process.wait(PATIENCE_S) == -11
    assert "Segmentation fault" in host.own_stderr()


def test_two_extensions_share_a_worker_and_can_load_while_a_node_waits(start_worker: StartWorker) -> None:
    host = start_worker()
    host.load("gates")
    params: dict[str, Any] = host.params("RFGateWaitAsync", {"name": "g"})
    request = host.start(wire.EXECUTE, params)
    host.wait_for(lambda: host.said(wire.PROGRESS))
    host.load("flow")
    host.execute("RFGateOpen", {"name": "g"})
    assert host.result(request)["slots"] == [["g"]]
    described = host.call(wire.DESCRIBE, {"class_types": None})["nodes"]
    assert {"RFGateWait", "RFPair"} <= {entry["class_type"] for entry in described}
