from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from policies import seccomp_profile
from policies.seccomp import GPU_ENTRIES, NETWORK_ENTRIES, PROFILE

DATA: dict[str, Any] = json.loads(PROFILE.read_text())
ENTRIES: list[dict[str, Any]] = DATA["syscalls"]
GPU: list[dict[str, Any]] = json.loads(GPU_ENTRIES.read_text())["syscalls"]

NETWORK: dict[str, Any] = json.loads(NETWORK_ENTRIES.read_text())

NEVER = [
    "io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup", "io_submit", "userfaultfd",
    "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "process_vm_readv",
    "process_vm_writev", "ptrace", "pidfd_getfd", "kcmp", "mount", "umount", "umount2", "move_mount",
    "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "pivot_root", "chroot",
    "unshare", "setns", "personality", "kexec_load", "kexec_file_load", "init_module", "finit_module",
    "delete_module", "memfd_secret", "open_by_handle_at", "name_to_handle_at", "mknod", "mknodat",
    "setuid", "setgid", "setresuid", "setresgid", "setgroups", "chown", "fchown", "lchown", "fchownat",
    "capset", "acct", "quotactl", "swapon", "swapoff", "reboot", "syslog", "iopl", "ioperm",
    "modify_ldt", "clock_settime", "settimeofday", "adjtimex", "fanotify_init", "splice", "vmsplice",
    "tee", "sethostname", "setdomainname", "nfsservctl", "lookup_dcookie", "vhangup", "uselib",
    "remap_file_pages", "shmget", "msgget", "semget", "mq_open", "seccomp", "mlockall", "setxattr",
    "lsetxattr", "fsetxattr", "socketcall", "ipc", "openat2",
]  # fmt: skip


def allowed(name: str, entries: list[dict[str, Any]] = ENTRIES) -> list[dict[str, Any]]:
    return [entry for entry in entries if name in entry["names"] and entry["action"] == "SCMP_ACT_ALLOW"]


def test_what_is_not_named_is_denied() -> None:
    assert DATA["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {entry["action"] for entry in ENTRIES} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}


def test_only_64_bit_entries_exist_so_no_32_bit_door_stands_beside_them() -> None:
    assert [(arch["architecture"], arch["subArchitectures"]) for arch in DATA["archMap"]] == [
        ("SCMP_ARCH_X86_64", []),
        ("SCMP_ARCH_AARCH64", []),
    ]


@pytest.mark.parametrize("entry", ENTRIES + GPU + NETWORK["syscalls"], ids=lambda entry: entry["names"][0])
def test_each_entry_says_why_it_is_there(entry: dict[str, Any]) -> None:
    assert len(entry["comment"]) > 20
    assert entry["names"]


@pytest.mark.parametrize("name", NEVER)
def test_a_call_that_widens_the_sandbox_is_never_allowed(name: str) -> None:
    assert not allowed(name)
    assert not allowed(name, GPU)
    assert not allowed(name, NETWORK["syscalls"])


def test_sockets_are_unix_sockets_only() -> None:
    for name in ("socket", "socketpair"):
        (entry,) = allowed(name)
        assert entry["args"] == [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]


def test_clone_makes_no_namespace_and_clone3_sends_the_c_library_back_to_clone() -> None:
    (entry,) = allowed("clone")
    (arg,) = entry["args"]
    namespaces = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
    assert (arg["index"], arg["value"], arg["valueTwo"], arg["op"]) == (
        0,
        namespaces,
        0,
        "SCMP_CMP_MASKED_EQ",
    )
    (clone3,) = [entry for entry in ENTRIES if "clone3" in entry["names"]]
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


O_DIRECT = {"amd64": 0x4000, "arm64": 0x10000}
F_SETFL = 4


def without(flag: int, index: int) -> dict[str, Any]:
    return {"index": index, "value": flag, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}


@pytest.mark.parametrize(
    ("name", "index", "arches"), [("openat", 2, ["amd64", "arm64"]), ("open", 1, ["amd64"])]
)
def test_no_file_is_opened_for_direct_io_which_would_pin_pages_past_an_adoption(
    name: str, index: int, arches: list[str]
) -> None:
    found = {tuple(entry["includes"]["arches"]): entry["args"] for entry in allowed(name, ENTRIES + GPU)}
    assert len(allowed(name, ENTRIES + GPU)) == len(found)
    assert found == {(arch,): [without(O_DIRECT[arch], index)] for arch in arches}


def test_direct_io_cannot_be_turned_on_later() -> None:
    """Each fcntl command is allowed as a whole 64-bit number: the kernel would cut 0x1_0000_0004 down to F_SETFL."""
    setfl = {}
    for entry in allowed("fcntl", ENTRIES + GPU):
        command, *others = entry["args"]
        assert (command["index"], command["op"]) == (1, "SCMP_CMP_EQ")
        if command["value"] == F_SETFL:
            (arch,) = entry["includes"]["arches"]
            assert arch not in setfl
            setfl[arch] = others
        else:
            assert not others
    assert setfl == {arch: [without(flag, 2)] for arch, flag in O_DIRECT.items()}


@pytest.mark.parametrize(("name", "index"), [("ioctl", 1), ("prctl", 0)])
def test_calls_with_many_faces_are_allowed_face_by_face(name: str, index: int) -> None:
    entries = allowed(name)
    assert len(entries) > 3
    for entry in entries:
        assert [(arg["index"], arg["op"]) for arg in entry["args"]] == [(index, "SCMP_CMP_EQ")]


def test_no_call_is_named_twice_without_arguments() -> None:
    names = Counter(name for entry in ENTRIES for name in entry["names"] if not entry.get("args"))
    assert [name for name, count in names.items() if count > 1] == []
    with_arguments = {name for entry in ENTRIES for name in entry["names"] if entry.get("args")}
    assert not with_arguments & set(names)


def test_it_is_far_smaller_than_the_engines_own_list() -> None:
    assert len({name for entry in ENTRIES for name in entry["names"]}) < 190  # Docker's allows over 300


def test_gpu_entries_come_only_on_request_and_add_to_the_profile() -> None:
    plain, gpu = json.loads(seccomp_profile()), json.loads(seccomp_profile(gpus=True))
    assert plain == DATA
    assert gpu["syscalls"] == ENTRIES + GPU
    assert {name for entry in GPU for name in entry["names"]} == {"ioctl", "mbind", "set_mempolicy"}


def test_only_a_sandbox_with_an_allowlist_makes_internet_sockets_and_those_are_tcp() -> None:
    families = {2, 10}
    for gpus in (False, True):
        for entry in allowed("socket", json.loads(seccomp_profile(gpus=gpus))["syscalls"]):
            assert entry["args"][0]["value"] not in families
    (unix, *tcp) = allowed("socket", json.loads(seccomp_profile(network=True))["syscalls"])
    assert unix["args"] == [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]
    found = set()
    for entry in tcp:
        family, kind, protocol = entry["args"]
        assert (family["index"], family["op"]) == (0, "SCMP_CMP_EQ")
        assert kind == {"index": 1, "value": 15, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}  # SOCK_STREAM
        assert (protocol["index"], protocol["op"]) == (2, "SCMP_CMP_EQ")
        found.add((family["value"], protocol["value"]))
    assert found == {(family, protocol) for family in families for protocol in (0, 6)}


def test_with_a_network_options_of_sockets_are_allowed_by_level_and_never_in_kernel_tls() -> None:
    entries = allowed("setsockopt", json.loads(seccomp_profile(network=True))["syscalls"])
    assert all(entry["args"] for entry in entries)
    assert [entry["args"][0]["value"] for entry in entries] == [1, 6, 41]
    tcp = entries[1]["args"][1]
    assert tcp == {"index": 1, "value": 19, "valueTwo": 0, "op": "SCMP_CMP_LT"} | {"index": 2}


def test_a_network_changes_nothing_else() -> None:
    plain, network = json.loads(seccomp_profile()), json.loads(seccomp_profile(network=True))
    names = lambda profile: {name for entry in profile["syscalls"] for name in entry["names"]}  # noqa: E731
    assert names(plain) == names(network)
    kept = [entry for entry in plain["syscalls"] if "setsockopt" not in entry["names"]]
    assert [entry for entry in kept if entry not in network["syscalls"]] == []
    assert len(network["syscalls"]) == len(plain["syscalls"]) + len(NETWORK["syscalls"])
