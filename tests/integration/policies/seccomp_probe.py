"""Runs inside a container, as a file, on the image's Python: what must work, and what must not be reachable.

Prints one JSON object: {"failed": {step: error}, "reached": [call, ...]}. Both have to be empty.
"""

import asyncio
import concurrent.futures
import ctypes
import errno
import fcntl
import json
import mmap
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

WITH_ENOSYS = {"clone3"}
NUMBERS = {  # x86-64; the profile itself is the same for every architecture
    "io_uring_setup": 425, "io_uring_enter": 426, "io_setup": 206, "userfaultfd": 323, "keyctl": 250, "add_key": 248,
    "bpf": 321, "perf_event_open": 298, "process_vm_readv": 310, "process_vm_writev": 311, "ptrace": 101, "mount": 165,
    "umount2": 166, "open_tree": 428, "fsopen": 430, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
    "personality": 135, "kexec_load": 246, "finit_module": 313, "memfd_secret": 447, "pidfd_getfd": 438, "mknod": 133,
    "mknodat": 259, "setuid": 105, "setxattr": 188, "kcmp": 312, "modify_ldt": 154, "iopl": 172, "syslog": 103,
    "clock_settime": 227, "splice": 275, "vmsplice": 278, "tee": 276, "shmget": 29, "msgget": 68, "mq_open": 240,
    "seccomp": 317, "clone3": 435, "remap_file_pages": 216, "open_by_handle_at": 304,
    "openat2": 437,
}  # fmt: skip
NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
IOCTLS = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "TIOCSETD": 0x5423, "TIOCGPTN": 0x80045430, "FIBMAP": 1}
FAMILIES = range(46)
STREAMS = {
    "stream": (socket.SOCK_STREAM, 0), "tcp": (socket.SOCK_STREAM, 6), "sctp": (socket.SOCK_STREAM, 132),
    "mptcp": (socket.SOCK_STREAM, 262), "raw": (socket.SOCK_RAW, 1), "packets": (socket.SOCK_SEQPACKET, 132),
}  # fmt: skip
OPTIONS = {
    "TCP_ULP": (6, 31), "TCP_REPAIR": (6, 19), "TCP_MD5SIG": (6, 14 + 24), "IP_RECVERR": (0, 11),
    "IP_TRANSPARENT": (0, 19), "IPT_SO_SET_REPLACE": (0, 64),
}  # fmt: skip
OPEN, OPENAT, FCNTL, AT_FDCWD = 2, 257, 72, -100  # x86-64


def double(number: int) -> int:
    return 2 * number


def torch_computes_on_many_threads() -> None:
    import torch

    torch.set_num_threads(4)
    a = torch.randn(400, 400)
    torch.linalg.svd(a @ a)
    torch.nn.functional.conv2d(torch.randn(1, 3, 32, 32), torch.randn(8, 3, 3, 3))
    x = torch.ones(3, requires_grad=True)
    (x * 2).sum().backward()  # type: ignore[no-untyped-call]
    torch.save(a, "a.pt")
    torch.load("a.pt", mmap=True)
    a.share_memory_()  # type: ignore[no-untyped-call]


def numpy_computes_and_maps() -> None:
    import numpy as np

    np.linalg.eig(np.random.rand(60, 60))
    np.save("n.npy", np.arange(9))
    np.load("n.npy", mmap_mode="c")[0] = 1


def threads_run() -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(double, range(10))) == 90
    thread = threading.Thread(target=time.sleep, args=(0,))
    thread.start()
    thread.join()


def helper_programs_run() -> None:
    done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"1\n"
    subprocess.run(
        "echo hi | cat >/dev/null; ls / >/dev/null", shell=True, check=True, start_new_session=True
    )
    sleeper = subprocess.Popen(["sleep", "60"])
    sleeper.terminate()
    sleeper.wait(30)


def processes_share_work() -> None:
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map(double, [3]) == [6]
    with multiprocessing.Manager() as manager:
        manager.dict()["a"] = 1


def files_are_written_and_mapped() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a")
        with open(path, "wb") as stream:
            stream.write(b"x" * 9000)
        shutil.copy2(path, path + "2")
        shutil.copytree(folder, folder + "-copy")
        shutil.rmtree(folder + "-copy")
        os.rename(path + "2", path + "3")
        os.symlink("a", path + "4")
        os.link(path, path + "5")
        os.chmod(path, 0o600)
        with open(path, "r+b") as stream:
            with mmap.mmap(stream.fileno(), 0) as mapped:
                mapped[0] = 1
                mapped.flush()
            os.posix_fallocate(stream.fileno(), 0, 20000)
            stream.truncate(10)
            os.fsync(stream.fileno())
        database = sqlite3.connect(os.path.join(folder, "db"))
        database.execute("pragma journal_mode=wal")
        database.execute("create table t(x)")
        database.close()


def descriptors_are_locked_and_set() -> None:
    with open("l", "w+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.fcntl(stream, fcntl.F_SETFL, fcntl.fcntl(stream, fcntl.F_GETFL) | os.O_APPEND)
        os.set_inheritable(stream.fileno(), True)
        os.close(os.dup(stream.fileno()))
    for end in os.pipe():
        os.set_blocking(end, False)
        assert not os.get_blocking(end)
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, fcntl.fcntl(end, fcntl.F_GETPIPE_SZ))
        os.close(end)
    sealed = os.memfd_create("m", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    os.close(sealed)


def the_event_loop_runs() -> None:
    async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
        server = await asyncio.start_unix_server(closes, "u.sock")
        reader, writer = await asyncio.open_unix_connection("u.sock")
        await reader.read()
        writer.close()
        server.close()
        await asyncio.to_thread(time.sleep, 0)

    asyncio.run(main())


def descriptors_travel_over_unix_sockets() -> None:
    ours, theirs = socket.socketpair()
    with open(os.devnull) as stream:
        socket.send_fds(ours, [b"x"], [stream.fileno()])
        _, (handle,), _, _ = socket.recv_fds(theirs, 1, 1)
    os.close(handle)


def signals_arrive() -> None:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.sigtimedwait([signal.SIGUSR1], 0.05)


def c_calls_back_into_python() -> None:
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(double)  # libffi's executable page
    assert callback(2) == 4


STEPS = [
    torch_computes_on_many_threads,
    numpy_computes_and_maps,
    threads_run,
    helper_programs_run,
    processes_share_work,
    files_are_written_and_mapped,
    descriptors_are_locked_and_set,
    the_event_loop_runs,
    descriptors_travel_over_unix_sockets,
    signals_arrive,
    c_calls_back_into_python,
]


def reachable() -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)

    def refused(number: int, *args: int) -> int:
        ctypes.set_errno(0)
        padded = [ctypes.c_ulong(arg) for arg in (*args, *[0] * (6 - len(args)))]
        result = libc.syscall(ctypes.c_long(number), *padded)
        if result == 0 and number == 56:
            os._exit(0)  # we are the child of a clone that should not have worked
        return ctypes.get_errno() if result == -1 else 0

    found = []
    if platform.machine() == "x86_64":
        for name, number in NUMBERS.items():
            wanted = errno.ENOSYS if name in WITH_ENOSYS else errno.EPERM
            # Where nothing filters, ptrace(0) lets the next signal stop us, and seccomp(0) kills this thread.
            if refused(number, 0xFFFF if name in ("ptrace", "seccomp") else 0) != wanted:
                found.append(name)
        found += [f"clone {flag:#x}" for flag in NAMESPACES if refused(56, flag | 17) != errno.EPERM]
        found += [f"ioctl {name}" for name, number in IOCTLS.items() if refused(16, 0, number) != errno.EPERM]
        path = ctypes.create_string_buffer(b"/tmp/direct")
        flags = os.O_RDWR | os.O_CREAT | os.O_DIRECT
        with open("/tmp/direct", "wb") as stream:
            tries = {
                "open O_DIRECT": (OPEN, ctypes.addressof(path), flags, 0o600),
                "openat O_DIRECT": (OPENAT, AT_FDCWD, ctypes.addressof(path), flags, 0o600),
                "F_SETFL O_DIRECT": (FCNTL, stream.fileno(), fcntl.F_SETFL, os.O_DIRECT),
                # The kernel reads 32 bits of the command, a filter 64.
                "F_SETFL O_DIRECT, long": (FCNTL, stream.fileno(), 1 << 32 | fcntl.F_SETFL, os.O_DIRECT),
            }
            found += [name for name, call in tries.items() if refused(*call) != errno.EPERM]
    for family in FAMILIES:
        if family == socket.AF_UNIX:
            continue
        try:
            socket.socket(family, socket.SOCK_DGRAM).close()
        except OSError as error:
            if error.errno == errno.EPERM:
                continue
        found.append(f"socket family {family}")
    for family in (socket.AF_INET, socket.AF_INET6):
        for name, (kind, protocol) in STREAMS.items():
            try:
                with socket.socket(family, kind, protocol) as made:
                    found += [] if family != socket.AF_INET or name != "stream" else options(made)
            except OSError as error:
                if error.errno == errno.EPERM:
                    continue
            found.append(f"socket {int(family)} {name}")
    return found


def options(made: socket.socket) -> list[str]:
    """What may be set on a TCP socket beyond delays and keep-alive times."""
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found = []
    for name, (level, option) in OPTIONS.items():
        try:
            made.setsockopt(level, option, 1)
        except OSError as error:
            if error.errno == errno.EPERM:
                continue
        found.append(f"setsockopt {name}")
    return found


def main() -> None:
    os.chdir("/tmp")
    failed = {}
    for step in STEPS:
        try:
            step()
        except BaseException as error:
            failed[step.__name__] = f"{type(error).__name__}: {error}"
    print(json.dumps({"failed": failed, "reached": reachable()}))


if __name__ == "__main__":
    main()
