"""What a hostile pack tries, one sentence each: how exactly it ends, and that a neighbour lives on.

Limits are read from the policy that is tested. The packs lie in ``tests/extensions`` or are a few lines here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from sandbox import (
    CallTimeoutError,
    EndedError,
    LoadFailedError,
    NodeRaisedError,
    NodeResult,
    ProtocolViolationError,
    QuotaError,
    SandboxError,
    Value,
)
from tests.contract.kit import ANSWER, PACKS, TENANT, World, call, ignore, in_docker, world

pytestmark = [pytest.mark.docker, pytest.mark.anyio]


def pack(body: str) -> str:
    """A pack of one node ``Attack`` that runs ``body`` and returns what it calls ``found``."""
    lines = "\n".join("        " + line for line in body.strip("\n").splitlines())
    return f"""
import ctypes, errno, mmap, os, socket, struct, subprocess, sys, threading, time
OUT, IN = "/ringfence/out", "/ringfence/in"

def attempt(function, *arguments):
    try:
        return repr(function(*arguments))
    except Exception as error:
        return type(error).__name__ + ": " + str(error)

class Attack:
    INPUT_TYPES = classmethod(lambda cls: {{"required": {{}}, "optional": {{"image": ("IMAGE",)}}}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "t"
    def run(self, image=None):
        found = None
{lines}
        return (found,)
NODE_CLASS_MAPPINGS = {{"Attack": Attack}}
"""


@asynccontextmanager
async def beside_a_neighbour(
    tmp_path: Path, isolation: str, name: str, code: str | None = None, policy: str = ""
) -> AsyncIterator[World]:
    """A world with one hostile pack and one friendly one that must not notice."""
    own = (
        f"isolation: {isolation}\n"  # the neighbour stays in runc: what it must not notice is this machine's
    )
    async with world(tmp_path, in_docker, policies={name: policy + own}) as at:
        at.shelf.write("neighbour", ANSWER)
        if code is None:
            at.shelf.add(PACKS / name)
        else:
            at.shelf.write(name, code)
        neighbour = await at.session("neighbour")
        yield at
        assert neighbour.is_alive
        result = await neighbour.execute(call("Answer"), ignore)
        assert one(result) == 42


def one(result: NodeResult) -> object:
    assert result.slots is not None
    return result.slots[0][0].tree


async def attack(at: World, name: str = "evil", **inputs: object) -> object:
    return one(await at.run(name, "Attack", **inputs))


# gVisor's own threads count against the cap.
PIDS = {"runc": 50, "gvisor": 128}

# -- limits --------------------------------------------------------------------------------------------------------


async def test_a_pack_that_eats_memory_is_killed_at_its_cap_and_named(tmp_path: Path, isolation: str) -> None:
    async with beside_a_neighbour(tmp_path, isolation, "memory_eater", policy="memory: 256MiB\n") as at:
        cap = at.policies.store.effective("memory_eater").memory >> 20  # type: ignore[arg-type]
        with pytest.raises(EndedError) as caught:
            await at.run("memory_eater", "RFMemoryEater", megabytes=100_000)
        assert caught.value.limit == "memory"
        assert (
            f"extension 'memory_eater' ended: killed: memory cap {cap} MiB (policies/memory_eater.yaml:1)"
            in str(caught.value)
        )
        assert "raise 'memory'" in str(caught.value)
        assert one(await at.run("memory_eater", "RFMemoryEater", megabytes=1)) == 1


async def test_a_child_process_killed_at_the_memory_cap_is_named_though_the_worker_lives(
    tmp_path: Path, isolation: str
) -> None:
    code = pack("""
source = "import time; x = [bytearray(b'x') * (1 << 20) for _ in range(100000)]"
open("/proc/self/oom_score_adj", "w").write("400") if False else None
subprocess.run([sys.executable, "-I", "-c", source], check=True)
""")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code, "memory: 300MiB\n") as at:
        session = await at.session("evil")
        with pytest.raises((NodeRaisedError, EndedError)) as caught:
            await session.execute(call("Attack"), ignore)
        assert "memory cap 300 MiB" in str(caught.value)


async def test_a_fork_bomb_meets_the_pids_cap_and_ends_with_its_sandbox(
    tmp_path: Path, isolation: str
) -> None:
    async with beside_a_neighbour(
        tmp_path, isolation, "fork_bomb", policy=f"pids: {PIDS[isolation]}\n"
    ) as at:
        if isolation == "gvisor":  # its kernel is refused a thread, and ends
            with pytest.raises(
                EndedError, match=rf"pids cap {PIDS[isolation]} \(policies/fork_bomb.yaml:1\)"
            ) as caught:
                await at.run("fork_bomb", "RFForkBomb", limit=100_000)
            assert caught.value.limit == "pids"
            return
        forked = one(await at.run("fork_bomb", "RFForkBomb", limit=100_000))
        assert isinstance(forked, int)
        assert forked < at.policies.store.effective("fork_bomb").pids  # type: ignore[arg-type]


async def test_an_error_at_the_pids_cap_names_it(tmp_path: Path, isolation: str) -> None:
    code = pack("""
children = []
while True:
    children.append(subprocess.Popen(["/bin/sleep", "60"]))
""")
    cap = PIDS[isolation]
    async with beside_a_neighbour(tmp_path, isolation, "evil", code, f"pids: {cap}\n") as at:
        # gVisor's own kernel cannot go on without a thread that it is refused: there the whole sandbox ends.
        kind = NodeRaisedError if isolation == "runc" else EndedError
        with pytest.raises(kind, match=rf"pids cap {cap} \(policies/evil.yaml:1\)(;| and)"):
            await attack(at)


async def test_a_node_that_never_returns_is_ended_at_its_timeout(tmp_path: Path, isolation: str) -> None:
    async with beside_a_neighbour(
        tmp_path, isolation, "never_returns", policy="timeouts: {call: 500ms}\n"
    ) as at:
        with pytest.raises(CallTimeoutError, match=r"took longer than timeouts.call 500 ms") as caught:
            await at.run("never_returns", "RFNeverReturns")
        assert caught.value.limit == "time"
        assert one(await at.run("never_returns", "RFAnswers")) == 42


async def test_a_node_that_never_returns_is_interrupted_by_its_end_after_the_grace(
    tmp_path: Path, isolation: str
) -> None:
    async with beside_a_neighbour(tmp_path, isolation, "never_returns") as at:
        session = await at.session("never_returns")
        runs = anyio.Event()  # a call that has not begun is taken back, and its sandbox lives on
        async with anyio.create_task_group() as group:
            group.start_soon(session.execute, call("RFNeverReturns"), lambda _: runs.set())
            with anyio.fail_after(60):
                await runs.wait()
            group.cancel_scope.cancel()
        assert not session.is_alive
        assert "did not stop when it was interrupted within timeouts.grace 2 s" in str(
            session._sandbox.ended_by
        )
        assert one(await at.run("never_returns", "RFAnswers")) == 42


async def test_a_full_tmp_is_an_error_of_the_node_and_not_of_the_machine(
    tmp_path: Path, isolation: str
) -> None:
    code = pack("""
with open("/tmp/big", "wb") as file:
    for _ in range(1000):
        file.write(bytes(1 << 20))
""")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code, "tmp: 8MiB\n") as at:
        with pytest.raises(NodeRaisedError, match="No space left"):
            await attack(at)


async def test_outputs_beyond_the_shared_memory_cap_are_refused_before_memory_is_touched(
    tmp_path: Path, isolation: str
) -> None:
    code = pack("import torch\nfound = torch.zeros(1).expand(100 << 20)")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code, "shared_memory: 16MiB\n") as at:
        with pytest.raises((QuotaError, NodeRaisedError), match="shared memory cap 16 MiB"):
            await attack(at)
        assert at.store.usage().bytes == 0


async def test_open_files_are_capped(tmp_path: Path, isolation: str) -> None:
    code = pack("keep = [open('/dev/null') for _ in range(100000)]")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code, "nofile: 64\n") as at:
        with pytest.raises(NodeRaisedError, match="Too many open files"):
            await attack(at)


# -- ways out ------------------------------------------------------------------------------------------------------


async def test_there_is_no_interface_but_loopback_and_no_way_to_a_name_or_address(
    tmp_path: Path, isolation: str
) -> None:
    code = pack("""
def connect(address):
    with socket.socket(socket.AF_INET) as probe:
        probe.settimeout(2)
        probe.connect(address)
interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
found = [interfaces, attempt(connect, ("1.1.1.1", 80)), attempt(connect, ("172.17.0.1", 2375)),
         attempt(socket.getaddrinfo, "example.com", 80), attempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW),
         attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)]
""")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        found = await attack(at)
    assert isinstance(found, list)
    assert found[0] == ["lo"]
    assert all("rror" in item for item in found[1:])


async def test_a_pack_that_tries_the_network_is_told_that_there_is_none(
    tmp_path: Path, isolation: str
) -> None:
    async with beside_a_neighbour(tmp_path, isolation, "network_probe") as at:
        with pytest.raises(NodeRaisedError, match=r"a sandbox has no network \(network: none"):
            await at.run("network_probe", "RFDownload", host="1.1.1.1", port=80)


READ_ONLY = [
    "/x",
    "/etc/passwd",
    "/ringfence/x",
    "/ringfence/in/x",
    "/ringfence/out/x",
    "/ringfence/code/reads_outside/x",
    "/ringfence/socket/x",
    "/app/input/x",
    "/opt/ringfence/ringfence_runtime/wire.py",
    "/dev/x",
    "/proc/sys/kernel/core_pattern",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
]


async def test_nothing_outside_the_policy_can_be_written(tmp_path: Path, isolation: str) -> None:
    async with beside_a_neighbour(tmp_path, isolation, "reads_outside") as at:
        for path in READ_ONLY:
            with pytest.raises(
                NodeRaisedError, match=r"Permission denied|Read-only file system|No such file|not permitted"
            ) as caught:
                await at.run("reads_outside", "RFWriteFile", path=path)
            assert path in str(caught.value)


async def test_privileges_cannot_be_gained(tmp_path: Path, isolation: str) -> None:
    code = pack("""
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
libc = ctypes.CDLL(None, use_errno=True)
def mount():
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, b""):
        raise OSError(ctypes.get_errno(), "mount")
def unshare():
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")
no_new_privileges = str(libc.prctl(39, 0, 0, 0, 0))
found = [status["CapEff"].strip(), no_new_privileges, status["Seccomp"].strip(), attempt(os.setuid, 0),
         attempt(mount), attempt(unshare), attempt(os.mknod, "/tmp/d", 0o60600, 0x0800)]
""")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        found = await attack(at)
    assert isinstance(found, list)
    assert found[:3] == ["0000000000000000", "1", "2"]
    assert all("Error" in item for item in found[3:])


CALLS = {
    "io_uring_setup": 425,
    "io_submit": 209,
    "userfaultfd": 323,
    "bpf": 321,
    "keyctl": 250,
    "process_vm_writev": 311,
    "perf_event_open": 298,
    "ptrace": 101,
}


async def test_system_calls_that_would_break_a_wall_are_refused(tmp_path: Path, isolation: str) -> None:
    code = pack(f"""
libc = ctypes.CDLL(None, use_errno=True)
found = dict()
for name, number in {CALLS!r}.items():
    result = libc.syscall(number, 1, 0, 0, 0, 0, 0)
    found[name] = [result, errno.errorcode.get(ctypes.get_errno(), "")]
""")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        found = await attack(at)
    assert isinstance(found, dict)
    assert found.keys() == CALLS.keys()
    for name, answer in found.items():
        assert answer in ([-1, "EPERM"], [-1, "ENOSYS"]), name


async def test_direct_io_which_would_write_to_an_output_after_it_was_taken_over_is_refused(
    tmp_path: Path, isolation: str
) -> None:
    code = pack("""
import fcntl
libc = ctypes.CDLL(None, use_errno=True)
flags = os.O_RDWR | os.O_CREAT | os.O_DIRECT
handle = os.open("/tmp/x", os.O_RDWR | os.O_CREAT)
def call(number, *arguments):  # past the C library, with 64 bits of everything
    if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(item) for item in arguments]) == -1:
        raise OSError(ctypes.get_errno(), "refused")
name = ctypes.create_string_buffer(b"/tmp/x")
how = (ctypes.c_uint64 * 3)(flags, 0o600, 0)
at = ctypes.addressof
found = [attempt(os.open, "/tmp/x", flags), attempt(fcntl.fcntl, handle, fcntl.F_SETFL, os.O_DIRECT),
         attempt(call, 2, at(name), flags, 0o600), attempt(call, 257, -100, at(name), flags, 0o600),
         attempt(call, 437, -100, at(name), at(how), 24), attempt(call, 72, handle, 4, os.O_DIRECT),
         attempt(call, 72, handle, 1 << 32 | 4, os.O_DIRECT)]
fcntl.fcntl(handle, fcntl.F_SETFL, os.O_NONBLOCK)
found.append(bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT))
""")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        *refused, direct = await attack(at)  # type: ignore[misc]
    assert len(refused) == 7
    assert all(item.startswith("PermissionError: [Errno 1]") for item in refused)
    assert direct is False


async def test_only_its_own_processes_are_seen(tmp_path: Path, isolation: str) -> None:
    code = pack("found = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        assert await attack(at) == [1]


# -- imports -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises_on_import", "RuntimeError: this pack needs a library"),
        ("exits_on_import", "please install the full version first"),
        ("dies_on_import", "left with status 3"),
        ("hangs_on_import", r"took longer than timeouts.import 5 s"),
    ],
)
async def test_an_import_that_fails_is_a_clear_error_on_that_extension_only(
    tmp_path: Path, isolation: str, name: str, says: str
) -> None:
    async with beside_a_neighbour(tmp_path, isolation, name, policy="timeouts: {import: 5s}\n") as at:
        with pytest.raises(LoadFailedError, match=says) as caught:
            await at.session(name)
        assert name in str(caught.value)
        assert [info.extensions for info in at.manager.list()] == [("neighbour",)]


# -- the protocol --------------------------------------------------------------------------------------------------

FIND_SOCKET = """
fds = []
for fd in range(3, 64):
    try:
        if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            fds.append(fd)
    except OSError:
        pass
"""


async def test_a_pack_that_writes_into_the_protocol_is_ended(tmp_path: Path, isolation: str) -> None:
    code = pack(FIND_SOCKET + "os.write(fds[0], b'\\xff' * 64)\ntime.sleep(30)")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        with pytest.raises(ProtocolViolationError, match="extension 'evil' broke the protocol and was ended"):
            await attack(at)


async def test_a_pack_that_forges_an_answer_is_ended(tmp_path: Path, isolation: str) -> None:
    code = pack(
        FIND_SOCKET
        + """
body = b'{"jsonrpc":"2.0","id":4711,"result":{}}'
os.write(fds[0], struct.pack(">I", len(body)) + body)
time.sleep(30)
"""
    )
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        with pytest.raises(ProtocolViolationError, match="answered call 4711, which nobody made"):
            await attack(at)


async def test_the_door_is_closed_behind_the_worker(tmp_path: Path, isolation: str) -> None:
    code = pack("""
second = socket.socket(socket.AF_UNIX)
found = attempt(second.connect, "/ringfence/socket/worker.sock")
""")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        assert "Error" in str(await attack(at))


async def test_a_pack_that_prints_like_the_protocol_changes_nothing(tmp_path: Path, isolation: str) -> None:
    async with beside_a_neighbour(tmp_path, isolation, "hostile_print") as at:
        assert one(await at.run("hostile_print", "RFPrintFrames")) == "done"
        assert one(await at.run("hostile_print", "RFPrintEverywhere")) == "done"
        lines = [line.text for info in at.manager.list() for line in await at.manager.logs(TENANT, info.id)]
        assert "from C" in lines
        assert not any("\x1b" in line for line in lines)


# -- shared memory -------------------------------------------------------------------------------------------------


async def test_the_out_directory_is_not_the_packs_to_change(tmp_path: Path, isolation: str) -> None:
    code = pack("""
import threading
seen = set()
stop = threading.Event()
def watch():
    # The worker fills files for our result while we look on.
    while not stop.is_set():
        for name in os.listdir(OUT):
            path = f"{OUT}/{name}"
            seen.update([attempt(os.unlink, path).split("]")[0], attempt(os.rename, path, OUT + "/x").split("]")[0],
                         attempt(os.link, path, OUT + "/y").split("]")[0], attempt(os.chmod, path, 0o777).split("]")[0],
                         attempt(os.link, path, "/tmp/y").split("]")[0]])
found = [attempt(os.mkdir, OUT + "/d"), attempt(os.symlink, "/etc", OUT + "/l"), attempt(open, OUT + "/new", "w")]
""")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        found = await attack(at)
    assert isinstance(found, list)
    assert all("Permission denied" in item or "Read-only" in item for item in found)


KEEP_WRITABLE = """
# Behind the worker's back: every file that it is given stays open for writing, and is written again later.
import threading, torch
kept = []
def hoard():
    known = set()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for name in os.listdir(OUT):
            if name not in known:
                known.add(name)
                try:
                    kept.append(os.open(f"{OUT}/{name}", os.O_RDWR))
                except OSError:
                    pass
        for fd in kept:
            try:
                os.pwrite(fd, b"EVIL", 0)
            except OSError:
                pass
threading.Thread(target=hoard, daemon=True).start()
time.sleep(0.05)
found = torch.zeros(8 << 20, dtype=torch.uint8)
"""


async def test_an_output_that_the_pack_keeps_open_never_changes_once_it_is_taken_over(
    tmp_path: Path, isolation: str
) -> None:
    """The hoarder wins the race for a writable descriptor or not; what the host holds stays as it is either way."""
    async with beside_a_neighbour(tmp_path, isolation, "evil", pack(KEEP_WRITABLE)) as at:
        for _ in range(4):
            try:
                result = await at.run("evil", "Attack")
            except SandboxError:
                continue  # a lease break: it was ended for that
            assert result.slots is not None
            ((value,),) = result.slots
            path = at.places.store / value.objects[0]
            before = await anyio.Path(path).read_bytes()
            await anyio.sleep(0.3)  # time for the hoarder to write, not a wait for anything
            assert await anyio.Path(path).read_bytes() == before
            at.store.release(value)


async def test_a_pack_cannot_see_what_it_was_not_given(tmp_path: Path, isolation: str) -> None:
    code = pack("found = sorted(os.listdir(IN)) + sorted(os.listdir(OUT)) + sorted(os.listdir('/dev/shm'))")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        secret = await at.store.put(TENANT, b"secret")
        assert await attack(at) == []
        assert await at.store.read(secret, 100) == b"secret"


async def test_an_input_cannot_be_changed_for_others(tmp_path: Path, isolation: str) -> None:
    code = pack("""
(name,) = os.listdir(IN)
path = f"{IN}/{name}"
found = [attempt(os.open, path, os.O_RDWR), attempt(os.truncate, path, 0), attempt(os.unlink, path),
         attempt(os.chmod, path, 0o666), attempt(os.open, f"/proc/self/fd/{os.open(path, os.O_RDONLY)}", os.O_RDWR)]
image += 1
""")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        name = await at.store.put(TENANT, b"\x07" * 16)
        ref = {"file": name, "nbytes": 16, "dtype": "uint8", "shape": [16], "requires_grad": False}
        found = await attack(at, image=Value({"$tensor": ref}, (name,)))
        assert isinstance(found, list)
        assert all("Error" in item for item in found)
        assert await at.store.read(name, 100) == b"\x07" * 16
