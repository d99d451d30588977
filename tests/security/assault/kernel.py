"""Attacks on the kernel: system calls that make namespaces, look into processes, load code or move the machine."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import tempfile

from ground import attack, call, gained, opened, reached

NEW_USER = 0x10000000
address = ctypes.addressof


def buffer(data: bytes | int) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data)


def child() -> int:
    """A process of ours that waits for its end."""
    pid = os.fork()
    if not pid:
        signal.pause()
    return pid


@attack("io_uring")
def io_uring() -> str:
    return gained(425, 1, address(buffer(120)))


@attack("userfaultfd")
def userfaultfd() -> str:
    return gained(323, 1)


@attack("keyrings")
def keyrings() -> str:
    return gained(248, b"user", b"ringfence-sentinel", b"x", 1, -1)


@attack("key-lookup")
def key_lookup() -> str:
    return gained(250, 0, -3, 1)


@attack("bpf-map")
def bpf_map() -> str:
    return gained(321, 0, address(buffer(struct.pack("5I", 2, 4, 4, 1, 0) + bytes(100))), 72)


@attack("perf-event")
def perf_event() -> str:
    # A software clock of ourselves, user side only.
    return gained(
        298,
        address(buffer(struct.pack("IIQQQQQ", 1, 112, 1, 0, 0, 0, 1 << 5 | 1 << 6) + bytes(80))),
        0,
        -1,
        -1,
        0,
    )


@attack("ptrace-a-process")
def ptrace() -> str:
    victim = child()
    try:
        return gained(101, 0x4206, victim, 0, 0)
    finally:
        os.kill(victim, 9)


@attack("read-another-process")
def process_vm_readv() -> str:
    secret, found = buffer(b"sentinel"), buffer(8)
    victim = child()
    there, here = struct.pack("QQ", address(secret), 8), struct.pack("QQ", address(found), 8)
    try:
        return gained(310, victim, here, 1, there, 1, 0)
    finally:
        os.kill(victim, 9)


@attack("write-another-process")
def process_vm_writev() -> str:
    secret, ours = buffer(b"sentinel"), buffer(b"changed!")
    victim = child()
    there, here = struct.pack("QQ", address(secret), 8), struct.pack("QQ", address(ours), 8)
    try:
        return gained(311, victim, here, 1, there, 1, 0)
    finally:
        os.kill(victim, 9)


@attack("steal-a-descriptor")
def pidfd_getfd() -> str:
    victim = child()
    try:
        return gained(438, os.pidfd_open(victim), 1, 0)
    finally:
        os.kill(victim, 9)


@attack("unshare-user-namespace")
def unshare() -> str:
    return gained(272, NEW_USER)


@attack("unshare-network-namespace")
def unshare_network() -> str:
    return gained(272, 0x40000000)


@attack("clone-user-namespace")
def clone() -> str:
    result, error = call(56, NEW_USER | signal.SIGCHLD, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    return "" if error else "a process in a namespace of its own"


@attack("clone3-user-namespace")
def clone3() -> str:
    arguments = struct.pack("11Q", NEW_USER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    result, error = call(435, arguments, len(arguments))
    if result == 0:
        # Whether the namespace is the machine's or a kernel's inside is for the outside to say.
        os._exit(0)
    return "" if error else "a process in a namespace of its own"


@attack("setns")
def setns() -> str:
    return gained(308, os.open("/proc/self/ns/uts", os.O_RDONLY), 0)


@attack("mount-a-file-system")
def mount() -> str:
    return gained(165, b"none", b"/tmp", b"tmpfs", 0, b"")


@attack("remount-root-writable")
def remount() -> str:
    return gained(165, b"none", b"/", b"", 0x20 | 0x1000, b"")


@attack("unmount")
def umount() -> str:
    return gained(166, b"/ringfence/socket", 2)


@attack("new-mount-calls")
def fsopen() -> str:
    return gained(430, b"tmpfs", 0)


@attack("change-a-mount")
def mount_setattr() -> str:
    return gained(442, -100, b"/ringfence/in", 0, struct.pack("4Q", 0, 1, 0, 0), 32)


@attack("open-tree")
def open_tree() -> str:
    return gained(428, -100, b"/", 0)


@attack("pivot-root")
def pivot_root() -> str:
    return reached(155, b"/", b"/tmp")


@attack("chroot")
def chroot() -> str:
    return gained(161, b"/tmp")


@attack("file-by-handle")
def open_by_handle_at() -> str:
    handle = buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount_id = ctypes.c_int()
    if call(303, -100, b"/ringfence/code/evil/run.py", address(handle), address(mount_id), 0)[1]:
        return ""
    return gained(304, os.open("/ringfence/code/evil", os.O_RDONLY), address(handle), 0)


@attack("load-a-kernel")
def kexec() -> str:
    return reached(246, 0, 0, 0, 0xFFFF)


@attack("load-a-module")
def module() -> str:
    return reached(313, -1, b"", 0)


@attack("unload-a-module")
def delete_module() -> str:
    return reached(176, 0, 0)


@attack("reboot")
def reboot() -> str:
    return reached(169, 0, 0, 0, 0)


@attack("set-the-clock")
def settimeofday() -> str:
    return reached(164, 0, 0)


@attack("swap")
def swapon() -> str:
    return reached(167, b"/nonexistent", 0)


@attack("process-accounting")
def acct() -> str:
    return reached(163, b"/nonexistent")


@attack("kernel-log")
def syslog() -> str:
    return gained(103, 10, 0, 0)


@attack("ports-of-the-machine")
def iopl() -> str:
    return gained(172, 3)


@attack("set-the-hostname")
def sethostname() -> str:
    return gained(170, b"sentinel", 8)


@attack("personality")
def personality() -> str:
    return gained(135, 0x0040000)


@attack("segment-descriptors")
def modify_ldt() -> str:
    return gained(154, 0, address(buffer(64)), 64)


@attack("compare-kernel-objects")
def kcmp() -> str:
    return gained(312, os.getpid(), os.getpid(), 0, 1, 1)


@attack("watch-all-files")
def fanotify() -> str:
    return gained(300, 0x200, 0)


@attack("kernel-aio")
def io_setup() -> str:
    return gained(206, 1, address(buffer(8)))


@attack("splice-pages")
def vmsplice() -> str:
    _, writer = os.pipe()
    data = buffer(b"x" * 16)
    return gained(278, writer, struct.pack("QQ", address(data), 16), 1, 0)


@attack("direct-io")
def direct() -> str:
    return opened("/ringfence/code/evil/run.py", os.O_DIRECT)


@attack("real-time-priority")
def scheduler() -> str:
    return gained(144, 0, 1, struct.pack("i", 1))


@attack("push-into-a-terminal")
def tiocsti() -> str:
    try:
        fcntl.ioctl(0, 0x5412, b"x")
    except OSError as error:
        return "" if error.errno == 1 else f"the kernel answered {error.errno}"
    return "a key was pressed"


@attack("tty-selection")
def tioclinux() -> str:
    try:
        fcntl.ioctl(0, 0x541C, b"\x00")
    except OSError as error:
        return "" if error.errno == 1 else f"the kernel answered {error.errno}"
    return "it was accepted"


def a_socket(family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> str:
    try:
        socket.socket(family, kind, protocol).close()
    except OSError:
        return ""
    return f"a socket of family {family}"


@attack("socket-inet")
def inet() -> str:
    return a_socket(socket.AF_INET)


@attack("socket-inet6")
def inet6() -> str:
    return a_socket(socket.AF_INET6)


@attack("socket-netlink")
def netlink() -> str:
    return a_socket(socket.AF_NETLINK, socket.SOCK_RAW)


@attack("socket-packet")
def packet() -> str:
    return a_socket(socket.AF_PACKET, socket.SOCK_RAW)


@attack("socket-raw")
def raw() -> str:
    return a_socket(socket.AF_INET, socket.SOCK_RAW, 1)


@attack("socket-vsock")
def vsock() -> str:
    return a_socket(40)


@attack("socket-alg")
def alg() -> str:
    return a_socket(38, socket.SOCK_SEQPACKET)


@attack("listen-on-tcp")
def listen() -> str:
    with socket.socket(socket.AF_INET) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
    return "it listens"


@attack("message-queue")
def mq_open() -> str:
    attributes = struct.pack("4q", 0, 1, 8, 0) + bytes(32)
    return gained(240, b"ringfence-sentinel", os.O_CREAT | os.O_RDWR, 0o600, attributes)


@attack("extended-attributes")
def setxattr() -> str:
    with tempfile.NamedTemporaryFile(dir="/app") as file:
        os.setxattr(file.name, "trusted.ringfence", b"x")
    return "an attribute that only the machine's root may set"
