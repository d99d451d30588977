from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies import PolicyError, PolicySyntaxError
from policies.load import load_defaults, load_policy, read_file
from policies.yaml_tree import MAX_BYTES


def refusal(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(PolicySyntaxError) as caught:
        load_policy(raw, "policies/blur.yaml")
    return str(caught.value)


def test_an_empty_file_is_a_policy_that_changes_nothing() -> None:
    for text in (b"", b"# only a comment\n", b"---\n", b"\xef\xbb\xbf"):
        assert load_policy(text, "x.yaml").value.model_dump(exclude_none=True) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memroy: 1GiB", "1:1: unknown key 'memroy'; did you mean 'memory'?"),
        ("cpus: 1\nshm: 1GiB", "2:1: unknown key 'shm'; did you mean 'shared_memory'?"),
        ("output_bytes: 3", "1:1: unknown key 'output_bytes'; it belongs below 'limits:'"),
        ("timeouts:\n  improt: 3s", "2:3: unknown key 'improt' in timeouts; did you mean 'import'?"),
        ("timeouts:\n  import_s: 3s", "2:3: unknown key 'import_s' in timeouts; did you mean 'import'?"),
        ("paths:\n  - {tenant: temp, acess: rw}", "2:20: unknown key 'acess' in paths[0]; did you mean 'access'?"),
        ("build: {zzz: 1}", "1:9: unknown key 'zzz' in build; the keys here are network, timeout, source_builds"),
        ("egress: [a.com:443]", "1:1: unknown key 'egress'; did you mean 'network'?"),
        ("secrets: {a: b}", "1:10: secrets: this is not a list; write one item per line"),
        ("ceilings: {memory: 1TiB}", "1:1: unknown key 'ceilings'; the keys here are memory, cpus, pids, nofile"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_its_place_and_the_likely_one(text: str, said: str) -> None:
    assert refusal(text).startswith(f"policies/blur.yaml:{said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory: 512M", "1:9: memory: '512M' has no unit this file knows (KiB, MiB, GiB, TiB); write '512MiB'"),
        ("memory: 1MiB", "1:9: memory: 1MiB is too little; write at least '16MiB'"),
        ("tmp: 0", "1:6: tmp: 0 is too little; write at least '64KiB'"),
        ("timeouts:\n  import: 30", "2:11: timeouts.import: 30 has no unit; write '30s' if you mean seconds"),
        ("timeouts: {call: 0s}", "1:18: timeouts.call: 0s is too short; write at least '1ms'"),
        ("cpus: 500m", "1:7: cpus: '500m' is not a number of CPUs; write 0.5"),
        ("pids: 2", "1:7: pids: 2 is out of range; write a number from 8 to 4194304"),
        ("pids: '64'", "1:7: pids: '64' is not a whole number; write a number such as 8"),
        ("isolation: kvm", "1:12: isolation: 'kvm' is not possible here; write 'runc' or 'gvisor'"),
        ("build: {network: 'yes'}", "1:18: build.network: this is neither true nor false; write true or false"),
        ("timeouts: 3", "1:11: timeouts: this is not a map of keys; write 'key: value' lines below it, indented"),
        ("paths: input", "1:8: paths: this is not a list; write one item per line, each beginning with '- '"),
        ("limits: {message_bytes: 1GiB}", "1:25: limits.message_bytes: 1GiB is too much; write at most '64MiB'"),
        ("group: My Group", "1:8: group: sandbox group name 'My Group' is not allowed; use 1 to 32 of a-z"),
        ("network: bridge", "1:10: network: this is neither 'none' nor an allowlist; write 'none' or '{allow: "),
        ("network: [api.example.com:443]", "1:10: network: this is neither 'none' nor an allowlist"),
        ("network: {allow: []}", "1:10: network: the allowlist is empty; write 'network: none'"),
        ("network:\n  allow:\n    - a.com:443\n    - b.com", "4:7: network.allow[1]: 'b.com' has no port; write 'b."),
        ("network: {allow: [a.com:443, a.com:443]}", "1:18: network.allow: 'a.com:443' is named twice"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_place_and_what_to_write(text: str, said: str) -> None:
    assert refusal(text).startswith(f"policies/blur.yaml:{said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{name: LD_PRELOAD, host: 'a.com:443', header: A}", "secrets[0].name: a policy cannot set LD_PRELOAD"),
        ("{name: key, host: 'a.com:443', header: A}", "secrets[0].name: 'key' is not a variable name"),
        ("{name: K, host: '*.a.com:443', header: A}", "secrets[0].host: '*.a.com:443' is more than one host"),
        ("{name: K, host: 'a.com:80', header: A}", "'a.com:80' would carry the secret unencrypted"),
        ("{name: K, host: 'a.com:443', header: Host}", "'Host' says where a request goes or ends"),
        ("{name: K, host: 'a.com:443', header: Proxy-Authorization}", "says where a request goes or ends"),
        ("{name: K, host: 'a.com:443', header: \"A\\r\\nB\"}", "is not a header name"),
        ("{name: K, host: 'a.com:443', header: A, format: Bearer}", "'Bearer' has no '{}'"),
        ("{name: K, host: 'a.com:443', header: A, format: '{}{}'}", "or more than one brace"),
        ("{name: K, host: 'a.com:443', header: A, format: \"{}\\r\\nX: y\"}", "that a header cannot carry"),
        ("{name: K, host: 'a.b:443', header: A}, {name: K, host: 'b.c:443', header: A}", "'K' is named twice"),
        ("{name: K, host: 'a.b:443', header: A}, {name: L, host: 'a.b:443', header: a}", "two secrets are for 'a'"),
    ],
)  # fmt: skip
def test_a_secret_that_could_go_astray_is_refused(text: str, said: str) -> None:
    assert said in refusal(f"secrets: [{text}]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{tenant: ../x}]", "paths[0].tenant: '../x' climbs out with '..'"),
        ("[{tenant: output/../../etc}]", "paths[0].tenant: 'output/../../etc' climbs out with '..'"),
        ("[{tenant: /etc}]", "paths[0].tenant: '/etc' is not a directory of the tenant; write one of input,"),
        ("[{tenant: secrets}]", "paths[0].tenant: 'secrets' is not a directory of the tenant"),
        ("[{tenant: models, access: rw}]", "paths[0]: models cannot be writable; write 'access: ro'"),
        ("[{tenant: input, scope: extension}]", "paths[0]: input has no folder per extension; remove 'scope'"),
        ("[{tenant: temp}, {tenant: temp}]", "paths: 'temp' is named twice; keep one of the two"),
        ("[{host: /srv/x}]", "paths[0].mount: this entry has no 'mount'; add 'mount: ...'"),
        ("[{host: srv/x, mount: /mnt/x}]", "paths[0].host: 'srv/x' is not absolute; write an absolute path"),
        ("[{host: /srv/../etc, mount: /mnt/x}]", "paths[0].host: '/srv/../etc' climbs with '..'"),
        ("[{host: //srv/x/, mount: /mnt/x}]", "paths[0].host: '//srv/x/' is not in its plain form; write '/srv/x'"),
        ('[{host: "/srv/a,ro", mount: /mnt/x}]', "paths[0].host: '/srv/a,ro' has a character that a mount"),
        ('[{host: "/srv/\\0", mount: /mnt/x}]', "paths[0].host: '/srv/\\x00' has a character that a mount"),
        ("[{host: /srv/x, mount: /usr/lib}]", "paths[0].mount: '/usr/lib' is not below /mnt, /data, /srv, /app/models"),
        ("[{host: /srv/x, mount: /mnt}]", "paths[0].mount: '/mnt' is not below /mnt, /data, /srv, /app/models"),
        ("[{host: /srv/x, mount: /mntx/y}]", "paths[0].mount: '/mntx/y' is not below /mnt"),
        ("[{access: ro}]", "paths[0]: a path says which directory it means; write '{tenant: input, access: ro}'"),
        ("[input]", "paths[0]: a path says which directory it means; write '{tenant: input, access: ro}'"),
    ],
)  # fmt: skip
def test_a_path_trick_is_refused_with_what_to_write(text: str, said: str) -> None:
    message = refusal(f"paths: {text}")
    assert message.startswith("policies/blur.yaml:1:")
    assert said in message


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("LD_PRELOAD", "it makes the dynamic linker load code; remove the line"),
        ("PYTHONPATH", "it changes the interpreter before the worker has secured its descriptors"),
        ("RINGFENCE_TOKEN", "these are Ringfence's own"),
        ("NVIDIA_VISIBLE_DEVICES", "the GPU hook reads these as a request for devices; use 'gpus'"),
        ("BASH_ENV", "a shell runs the file it names"),
        ("PATH", "the worker sets it"),
    ],
)
def test_a_variable_that_would_change_the_worker_cannot_be_set(name: str, why: str) -> None:
    message = refusal(f"environment:\n  OK: fine\n  {name}: x")
    assert message.startswith(
        f"policies/blur.yaml:3:3: environment.{name}: a policy cannot set {name}: {why}"
    )


@pytest.mark.parametrize("name", ["lower", "1A", "A-B", "A=B", "'A\\n'", "'Ä'"])
def test_a_variable_name_is_upper_case_ascii(name: str) -> None:
    assert "is not a variable name" in refusal(f"environment: {{{name}: x}}")


def test_values_of_variables_are_text_or_whole_numbers() -> None:
    loaded = load_policy(b"environment: {OMP_NUM_THREADS: 2, HF_HUB_OFFLINE: '1'}", "x")
    assert loaded.value.environment == {"OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    assert "put the value in quotes" in refusal("environment: {A: true}")
    assert "has a control character in it" in refusal('environment: {A: "a\\nb"}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpus: 1", "1:7: gpus: 1 does not say which GPUs; name them: gpus: ['GPU-<uuid>']"),
        ("gpus: all", "1:7: gpus: 'all' is not a list of GPUs; name them"),
        (
            "gpus: [all]",
            "gpus: 'all' is not a GPU; write a UUID ('GPU-...', 'MIG-...') or an index such as '0'",
        ),
        ("gpus: [0, '0']", "gpus: a GPU is named twice; name each GPU once"),
    ],
)
def test_gpus_are_named_one_by_one(text: str, said: str) -> None:
    assert said in refusal(text)


def test_gpus_may_be_uuids_indices_or_none() -> None:
    uuid = "GPU-6f2e1c8a-91b3-4f57-8d0e-2b7c5a9d3e10"
    assert load_policy(f"gpus: [{uuid}, 1]".encode(), "x").value.gpus == (uuid, "1")
    assert load_policy(b"gpus: 0", "x").value.gpus == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory: &a 1GiB", "1:9: anchors and aliases are not allowed; write the value out"),
        ("a: *b", "1:4: anchors and aliases are not allowed"),
        ("!!python/object/apply:os.system ['id']", "1:1: tags are not allowed"),
        ("memory: !!str 1", "1:9: tags are not allowed; remove the word that begins with '!'"),
        ("<<: {memory: 1GiB}", "1:1: merge keys ('<<') are not allowed; write the keys out"),
        ("%YAML 1.1\n---\nmemory: 1GiB", "directives are not allowed; remove the line with '%'"),
        ("cpus: 1\n---\ncpus: 2", "2:1: a second document begins here; remove '---'"),
        ("cpus: 1\ncpus: 2", "2:1: 'cpus' is written twice (first in line 1); keep one of the two"),
        ("memory:", "1:1: 'memory' has no value; write one, or remove the line"),
        ("paths: [~]", "1:9: "),
        ("? [a]\n: b", "a key is a word; write 'key: value'"),
        ("1: 2", "1:1: a key is a word; write 'key: value'"),
        ("- 1", "1:1: a policy is a map of keys; write lines such as 'memory: 512MiB'"),
        ("pids: 0x40", "1:7: '0x40' is not a plain number; write a decimal number"),
        ("cpus: .inf", "1:7: '.inf' is not a plain number"),
        (f"pids: {'9' * 5000}", "is not a plain number"),
        ("\tcpus: 1", "1:1: this is not YAML: found character '\\t'"),
        ("paths: [", "this is not YAML"),
        ("a: \x00", "this is not YAML"),
        (b"a: \xff", "1:1: this is not UTF-8 text; save the file as UTF-8"),
        ("[" * 3000, "the file is too deep or too long; a policy has at most 8 levels and 4000 values"),
        ("gpus: [" + "1," * 5000 + "]", "the file is too deep or too long"),
        ("#" * (MAX_BYTES + 1), "the file has 65537 bytes; a policy has at most 64KiB"),
    ],
)
def test_yaml_that_means_more_than_it_shows_is_refused(text: str | bytes, said: str) -> None:
    message = refusal(text)
    assert said in message
    assert message.startswith("policies/blur.yaml:")


def test_words_that_other_yaml_readers_turn_into_something_else_stay_text() -> None:
    loaded = load_policy(b"environment: {A: no, B: on, C: 2024-01-01, D: '~', E: 12:30:45}", "x")
    assert loaded.value.environment == {"A": "no", "B": "on", "C": "2024-01-01", "D": "~", "E": "12:30:45"}


def test_all_problems_of_a_file_are_found_at_once_and_the_first_line_comes_first() -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        load_policy(b"cpus: 1\nzzz: 3\nmemory: 512M\nisolation: vm\n", "b.yaml")
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]
    assert (caught.value.line, caught.value.column, caught.value.code) == (2, 1, "policy-syntax")
    assert "(and 2 more: line 3, 4)" in str(caught.value)


def test_a_hostile_key_cannot_write_to_the_terminal() -> None:
    assert "\x1b" not in refusal('"\\e[31mx": 1')
    assert "\u202e" not in refusal('"a\u202eb": 1')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path_roots: [/]", "path_roots[0]: '/' takes in /boot; write a directory made for this"),
        ("path_roots: [/etc/ssl]", "'/etc/ssl' takes in /etc"),
        ("path_roots: [/var]", "'/var' takes in /var/lib/docker"),
        ("path_roots: [models]", "'models' is not absolute"),
        ("defaults: {group: a}", "1:12: unknown key 'group' in defaults"),
        ("ceilings: {transport: stdio}", "1:12: unknown key 'transport' in ceilings"),
        (
            "ceilings: {network: ['any', 'a.com:443']}",
            "1:21: ceilings.network: 'any' stands beside other destinations",
        ),
        (
            "ceilings: {secrets: {K: 'a.com'}}",
            "1:25: ceilings.secrets.K: 'a.com' has no port; write 'a.com:443'",
        ),
        ("ceilings: {environment: ['a*']}", "1:26: ceilings.environment[0]: 'a*' is not a variable name"),
        ("ceilings: {gpus: [0]}", "ceilings.gpus: a list is not a whole number"),
        (
            "ceilings: {timeouts: {impot: 3s}}",
            "unknown key 'impot' in ceilings.timeouts; did you mean 'import'?",
        ),
        ("tenants: {Bad Name: {}}", "tenant name 'Bad Name' is not allowed"),
        ("tenants: {a: {ceiling: {}}}", "unknown key 'ceiling' in tenants.a; did you mean 'ceilings'?"),
        ("memory: 1GiB", "1:1: unknown key 'memory'; it belongs below 'defaults:'"),
    ],
)
def test_the_defaults_file_is_as_strict_as_an_extensions(text: str, said: str) -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        load_defaults(text.encode(), "policies/default.yaml")
    assert said in str(caught.value)


def test_a_fifo_in_the_policy_directory_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(PolicyError, match="this is not a regular file; name a YAML file"):
        read_file(tmp_path / "x.yaml", "x.yaml")
    with pytest.raises(PolicyError, match="this is not a regular file"):
        read_file(tmp_path, "dir.yaml")


def refused_by(load: Callable[[bytes, str], object], raw: bytes) -> PolicySyntaxError | None:
    try:
        load(raw, "fuzz.yaml")
    except PolicySyntaxError as error:
        return error
    return None


_PIECES = (
    "memory|paths|tenant|: |\n|  |- |[|]|{|}|, |1GiB|&a|*a|!t|'|\"|>|#|---|...|%|~|?|\t|0|import|\\|<<|\x85"
)
YAML_PIECES = st.lists(st.sampled_from((*_PIECES.split("|"), "|")), max_size=30).map("".join)


@given(YAML_PIECES | st.text(max_size=60))
@example("%YAML 9.9\n---\n")
@example("%TAG ! x\n---\n!y")
@example('"\\UFFFFFFFF"')
@example("? \n? a")
@example("a: |9\n b")
@example("!<> a")
@example("a:\n- b\n -c")
def test_whatever_the_text_nothing_but_a_policy_error_comes_out(text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    for load in (load_policy, load_defaults):
        error = refused_by(load, raw)
        assert error is None or (error.line >= 1 and "\n" not in str(error))


def test_the_largest_allowed_file_is_read_in_bounded_time() -> None:
    started = time.thread_time()
    for text in (
        "a" * MAX_BYTES,
        "{a: " * (MAX_BYTES // 4),
        "a: b\n" * (MAX_BYTES // 5),
        "- " * (MAX_BYTES // 2),
        "# x\n" * (MAX_BYTES // 4),
        "'" + "''" * (MAX_BYTES // 2 - 1),
        "? " * (MAX_BYTES // 2),
        "environment:\n" + "".join(f"  A{i}: x\n" for i in range(1900)),
    ):
        error = refused_by(load_policy, text.encode()[:MAX_BYTES])
        assert (error is None) == text.startswith("#")
    assert time.thread_time() - started < 20
