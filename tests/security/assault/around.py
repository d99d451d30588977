"""Attacks by what lies around a process: files, mounts, devices, limits, identity, other processes."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

from ground import TOLD, attack, call, libc, opened

WRITE = os.O_WRONLY


def program(code: bytes) -> bytes:
    """The smallest program that a Linux for x86-64 runs."""
    start = 0x400078
    size = 0x78 + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += (2).to_bytes(2, "little") + (62).to_bytes(2, "little") + (1).to_bytes(4, "little")
    header += start.to_bytes(8, "little") + (64).to_bytes(8, "little") + bytes(8 + 4)
    header += b"".join(item.to_bytes(2, "little") for item in (64, 56, 1, 0, 0, 0))
    segment = (1).to_bytes(4, "little") + (5).to_bytes(4, "little") + bytes(8)
    segment += (
        (0x400000).to_bytes(8, "little") * 2 + size.to_bytes(8, "little") * 2 + (0x1000).to_bytes(8, "little")
    )
    return header + segment + code


#: Exits with who it is.
WHO = program(bytes.fromhex("b86b000000 0f05 89c7 b83c000000 0f05"))
#: Exits with 0 when it could change its root directory, which takes a capability.
ROOTED = program(bytes.fromhex("488d3d12000000 b8a1000000 0f05 f7d8 89c7 b83c000000 0f05") + b"/\x00")


def status(key: str) -> str:
    found = re.search(rf"^{key}:\s*(.*)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return found[1] if found else ""


def written(path: str) -> str:
    """Whether a new file can be put there; it is removed at once."""
    try:
        os.close(os.open(path, WRITE | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        return ""
    os.unlink(path)
    return f"{path} was written"


# -- files and mounts ---


@attack("write-the-image")
def image() -> str:
    return written("/opt/venv/sentinel")


@attack("write-etc")
def etc() -> str:
    return written("/etc/sentinel")


@attack("overwrite-the-interpreter")
def interpreter() -> str:
    return opened(os.path.realpath("/proc/self/exe"), WRITE)


@attack("overwrite-through-proc-self-exe")
def through_exe() -> str:
    # How CVE-2019-5736 got at the runtime: the file behind the process that is being started.
    return opened("/proc/self/exe", WRITE)


@attack("write-own-code")
def code() -> str:
    return written("/ringfence/code/evil/sentinel")


@attack("write-inputs")
def inputs() -> str:
    return written("/ringfence/in/sentinel") or opened("/ringfence/in/input", WRITE)


@attack("new-file-among-outputs")
def outputs() -> str:
    return written("/ringfence/out/sentinel")


@attack("replace-the-door")
def door() -> str:
    return written("/ringfence/socket/sentinel")


@attack("read-a-file-of-root")
def root_file() -> str:
    return opened("/ringfence/in/private")


@attack("own-a-file-of-root")
def chown() -> str:
    os.chown("/ringfence/out/output", 0, 0)
    return "it is root's now"


@attack("run-from-tmp")
def from_tmp() -> str:
    Path("/tmp/dropped").write_bytes(WHO)
    os.chmod("/tmp/dropped", 0o755)
    return f"it ran, and ended with {subprocess.run(['/tmp/dropped']).returncode}"


@attack("setuid-program")
def setuid_program() -> str:
    return "it was root" if subprocess.run(["/ringfence/code/evil/setuid"]).returncode == 0 else ""


@attack("capabilities-by-file")
def file_capabilities() -> str:
    done = subprocess.run(["/ringfence/code/evil/capable"])
    return "it had a capability" if done.returncode == 0 else ""


@attack("device-node")
def mknod() -> str:
    os.mknod("/app/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return "a device was made"


@attack("devices")
def devices() -> str:
    usual = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
             "stdout", "tty", "urandom", "zero"}  # fmt: skip
    if TOLD["isolation"] == "gvisor":
        usual |= {"fuse", "net"}  # of its own kernel, none of the machine's
    return ", ".join(sorted(set(os.listdir("/dev")) - usual))


@attack("mounted-sentinel")
def mounted() -> str:
    return opened("/machine/sentinel")


@attack("engine-socket")
def engine_socket() -> str:
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path)
            except OSError:
                continue
            return f"{path} answers"
    return ""


@attack("leaked-descriptors")
def descriptors() -> str:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            place = os.readlink(f"/proc/self/fd/{name}")
            kind = os.fstat(int(name)).st_mode
        except OSError:
            continue
        if (stat.S_ISDIR(kind) and not place.startswith("/proc/")) or (stat.S_ISREG(kind) and int(name) < 3):
            found.append(place)
    return ", ".join(found)


@attack("working-directory-outside")
def cwd() -> str:
    # How CVE-2024-21626 got out: started in a directory of the machine that a descriptor had kept open.
    here = os.getcwd()
    return "" if here == "/app" else f"it began in {here}"


# -- the kernel's own files ---


def remounted(place: str, *paths: str, how: int = 0x20 | 0x1000) -> str:
    """Whether one of the files can be opened for writing, if need be after its mount was made writable; none is."""
    call(165, b"none", place.encode(), b"", how, b"")
    return next((said for said in (opened(path, WRITE) for path in paths) if said), "")


@attack("core-pattern")
def core_pattern() -> str:
    return remounted("/proc/sys", "/proc/sys/kernel/core_pattern")


@attack("sysrq")
def sysrq() -> str:
    return remounted("/proc/sysrq-trigger", "/proc/sysrq-trigger")


@attack("uevent-helper")
def uevent_helper() -> str:
    files = ("/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/sys/power/state")
    return remounted("/sys", *files, how=0x20)


@attack("cgroup-limits")
def cgroup() -> str:
    return (
        remounted("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
        or remounted("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/pids.max")
        or remounted("/sys/fs/cgroup", "/sys/fs/cgroup/memory.max")
    )


@attack("cgroup-of-its-own")
def own_cgroup() -> str:
    # Where CVE-2022-0492 began: a hierarchy that it mounted itself, whose release agent it could name.
    os.mkdir("/tmp/hierarchy")
    kinds = ((b"cgroup", b"pids"), (b"cgroup2", b""))
    mounted = [kind for kind, data in kinds if not call(165, b"none", b"/tmp/hierarchy", kind, 0, data)[1]]
    return "a cgroup hierarchy is mounted" if mounted else ""


@attack("masked-files")
def masked() -> str:
    # Names of keys and timers of everybody on the machine; an empty file when masked.
    said = []
    for path in ("/proc/keys", "/proc/timer_list", "/proc/sched_debug"):
        try:
            said += [path] if Path(path).read_bytes() else []
        except OSError:
            pass
    try:
        said += ["/sys/firmware"] if os.listdir("/sys/firmware") else []
    except OSError:
        pass
    return ", ".join(said)


@attack("kernel-memory")
def kcore() -> str:
    with open("/proc/kcore", "rb") as file:
        return "it begins like a core file" if file.read(4) == b"\x7fELF" else ""


# -- who we are, and who else there is ---


@attack("is-root")
def is_root() -> str:
    return "root" if os.geteuid() == 0 else ""


@attack("become-root")
def become_root() -> str:
    os.setuid(0)
    return "root"


@attack("capabilities")
def held() -> str:
    masks = {key: int(status(key), 16) for key in ("CapEff", "CapPrm", "CapBnd", "CapAmb")}
    return ", ".join(f"{key} {mask:x}" for key, mask in masks.items() if mask)


@attack("groups-of-others")
def groups() -> str:
    more = set(os.getgroups()) - {os.getgid()}
    return f"groups {sorted(more)}" if more or os.getgid() == 0 else ""


@attack("privileges-can-be-gained")
def new_privileges() -> str:
    return "" if libc.prctl(39, 0, 0, 0, 0) == 1 else "no_new_privs is not set"


@attack("no-filter")
def no_filter() -> str:
    return "" if status("Seccomp") == "2" else "no filter"


@attack("processes-of-others")
def others() -> str:
    return "" if os.getppid() == 1 else f"our parent is {os.getppid()}: we see the machine's processes"


@attack("root-of-another-process")
def another_root() -> str:
    return opened(f"/proc/{TOLD['pid']}/root{TOLD['sentinel']}")


@attack("signal-another-process")
def signal_another() -> str:
    os.kill(TOLD["pid"], 0)
    return "a process of the machine could be ended"


@attack("shared-memory-of-others")
def shared_memory() -> str:
    return opened(f"/dev/shm/{TOLD['shm']}")


@attack("name-of-the-machine")
def name() -> str:
    return "" if os.uname().nodename == "sandbox" else os.uname().nodename


@attack("network-interfaces")
def interfaces() -> str:
    found = {
        line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines() if ":" in line
    }
    return ", ".join(sorted(found - {"lo"}))


@attack("abstract-socket-of-the-machine")
def abstract() -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + TOLD["abstract"])
    return "it answered"


@attack("place-in-the-cgroups")
def cgroup_place() -> str:
    found = {line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    return ", ".join(sorted(place for place in found if place != "/")[:1])


@attack("less-likely-to-be-killed")
def oom() -> str:
    Path("/proc/self/oom_score_adj").write_text("0")
    return "as safe as the operator's own"


@attack("gpus-of-the-image")
def gpus() -> str:
    found = os.environ.get("NVIDIA_VISIBLE_DEVICES")
    return "" if found == "void" else f"NVIDIA_VISIBLE_DEVICES={found}"


@attack("variables-for-python")
def isolated() -> str:
    return "" if sys.flags.isolated else "PYTHON* variables and the current directory count"


@attack("terminal")
def terminal() -> str:
    return "a terminal" if any(os.isatty(fd) for fd in (0, 1, 2)) else ""


# -- limits ---


@attack("open-files")
def open_files() -> str:
    kept = []
    try:
        while len(kept) < TOLD["nofile"] + 16:
            kept.append(os.dup(1))
    except OSError:
        return ""
    return f"{len(kept)} open files"


@attack("raise-own-limits")
def raise_limits() -> str:
    said = []
    for kind in ("NOFILE", "CORE", "FSIZE", "MEMLOCK", "MSGQUEUE"):
        number = getattr(resource, f"RLIMIT_{kind}", 12)
        try:
            _, hard = resource.getrlimit(number)
            if hard == resource.RLIM_INFINITY:
                said.append(f"{kind} has none")
                continue
            resource.setrlimit(number, (hard + 1, hard + 1))
        except (OSError, ValueError):
            continue
        said.append(kind)
    return ", ".join(said)


@attack("core-file")
def core_file() -> str:
    return "a core file could be written" if resource.getrlimit(resource.RLIMIT_CORE)[1] else ""


@attack("sparse-giant")
def sparse() -> str:
    with open("/app/giant", "wb") as file:
        os.ftruncate(file.fileno(), TOLD["fsize"] + 1)
    return f"a file of {TOLD['fsize'] + 1} bytes"


@attack("locked-memory")
def locked() -> str:
    area = mmap.mmap(-1, 1 << 16)
    where = ctypes.addressof(ctypes.c_char.from_buffer(area))
    return "" if call(149, where, 1 << 16)[1] else "64 KiB cannot be taken back"


def filled(place: str, cap: int) -> str:
    count = 0
    try:
        with open(f"{place}/filled", "wb", buffering=0) as file:
            while count <= cap + (1 << 20):
                count += file.write(bytes(1 << 19))
    except OSError:
        return ""
    finally:
        os.unlink(f"{place}/filled")
    return f"{count} bytes in {place}"


@attack("fill-tmp")
def fill_tmp() -> str:
    return filled("/tmp", TOLD["tmp"])


@attack("fill-the-throwaway-tree")
def fill_app() -> str:
    return filled("/app", TOLD["scratch"])


@attack("fill-shared-memory")
def fill_shm() -> str:
    return filled("/dev/shm", TOLD["shm_size"])


@attack("files-without-end")
def inodes() -> str:
    said = []
    for place in ("/tmp", "/app"):
        found = os.statvfs(place)
        # 0: as many as there is memory for.
        if not 0 < found.f_files <= 131_072:
            said.append(f"{place} may hold {found.f_files}")
    return ", ".join(said)


@attack("processes-without-end")
def forks() -> str:
    children: list[int] = []
    try:
        while len(children) < TOLD["pids"] + 8:
            pid = os.fork()
            if not pid:
                os.read(os.pipe()[0], 1)
            children.append(pid)
    except OSError:
        return ""
    finally:
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    return f"{len(children)} children"


@attack("swap-and-memory")
def memory() -> str:
    for place in (
        "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ):
        try:
            if int(Path(place).read_text()) > TOLD["memory"]:
                return f"{place} is above the cap"
        except FileNotFoundError:
            continue
    return ""


@attack("more-cpu-than-given")
def cpu() -> str:
    quota = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
    shares = int(Path("/sys/fs/cgroup/cpu/cpu.shares").read_text())
    return "" if 0 < quota <= 100_000 and shares < 1024 else f"quota {quota}, shares {shares}"
