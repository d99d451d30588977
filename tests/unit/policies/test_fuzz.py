"""Whatever bytes a policy file has, and whatever layers meet: a policy under its ceilings, or a PolicyError, soon.

`seeds/` holds files that mean something particular to a YAML reader; what a run finds is added there.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import LOCAL_TENANT, PolicyError, TenantId, explain
from policies.builtin import BUILT_IN
from policies.layers import flatten
from policies.load import load_defaults, load_policy
from policies.merge import merge
from policies.model import DefaultsFile, EffectivePolicy
from policies.network import parse_destination

SEEDS = {path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "seeds").iterdir())}
TRIAL = TenantId("trial")
SOON_S = 10.0
"""Of computing, for one file of at most 64KiB; the worst takes half a second."""


def check_error(error: PolicyError) -> None:
    """An error is safe to print, short, and says where."""
    assert str(error).isprintable()
    assert len(str(error)) < 2_000
    assert error.file in ("blur.yaml", "default.yaml")
    assert error.line >= 1


def swallow(raw: bytes) -> None:
    """Read `raw` as each kind of file; the only way to fail is a PolicyError whose text is safe to print."""
    for load in (load_policy, load_defaults):
        try:
            loaded = load(raw, "blur.yaml")
        except PolicyError as error:
            check_error(error)
            continue
        if isinstance(loaded.value, DefaultsFile):
            args: tuple[Any, Any] = (None, loaded)
        else:
            args = (loaded, None)
        try:
            effective = merge(*args, LOCAL_TENANT)
        except PolicyError as error:
            check_error(error)
            continue
        assert all(row.value.isprintable() for row in explain(effective))


@pytest.mark.parametrize("name", SEEDS)
def test_every_seed_is_a_policy_or_an_error_with_its_line(name: str) -> None:
    swallow(SEEDS[name])


@given(st.binary(max_size=2_000))
def test_any_bytes_are_a_policy_or_an_error(raw: bytes) -> None:
    swallow(raw)


PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"\n", b": ", b"- ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"!!", b"<<: ", b"? ", b"'", b'"',
                     b"|\n", b"%", b"---\n", b"\t", b"\xe2\x80\xa8", b"\x85"]),
    st.sampled_from(list(SEEDS.values())),
)  # fmt: skip


@given(
    st.sampled_from(list(SEEDS.values())),
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 30), PIECES), max_size=4),
)
def test_a_damaged_policy_is_a_policy_or_an_error(raw: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for position, cut, piece in edits:
        position %= len(raw) + 1
        raw = raw[:position] + piece + raw[position + cut :]
    swallow(raw)


BOMBS: dict[str, bytes] = {
    "open lists": b"[" * 65_000,
    "open maps": b"{" * 65_000,
    "nested items": b"- " * 32_000,
    "nested keys": b"? " * 32_000,
    "indentation": b"".join(b" " * depth + b"a:\n" for depth in range(350)),
    "aliases": b"a: &a [1]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (i, i) for i in range(2_000)),
    "one word": b"memory: " + b"x" * 65_000,
    "one number": b"pids: " + b"1" * 65_000,
    "one key": b"x" * 65_000 + b": 1\n",
    "lines of one text": b"memory: a\n" + b" b\n" * 21_000,
    "quotes": b"memory: '" + b"''" * 32_000 + b"'",
    "escapes": b'memory: "' + b"\\x41" * 16_000 + b'"',
    "unknown keys that are nearly right": b"".join(b"shared_memor%d: 1\n" % i for i in range(1_990)),
    "variables": b"environment:\n" + b"".join(b"  A%d: 1\n" % i for i in range(1_990)),
    "paths": b"paths:\n" + b"".join(b"  - {tenant: user/a%d}\n" % i for i in range(1_300)),
    "destinations": b"network:\n  allow:\n"
    + b"".join(b"    - h%d.example.com:443\n" % i for i in range(2_000)),
    "private destinations": b"network:\n  allow:\n"
    + b"".join(b"    - 10.0.0.%d:443\n" % i for i in range(2_500)),
    "tenants": b"tenants:\n" + b"".join(b"  t%d: {ceilings: {memory: %d}}\n" % (i, i) for i in range(660)),
    "documents": b"---\n" * 16_000,
    "too large": b"#" * 10_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_file_takes_long(name: str) -> None:
    started = time.thread_time()
    swallow(BOMBS[name])
    assert time.thread_time() - started < SOON_S


# --- layers -----------------------------------------------------------------------------------------------------

SIZE = st.integers(2**24, 2**37).map(str) | st.sampled_from(["512MiB", "64KiB", "16GiB", "512M"])
TIME = st.integers(1, 10_000).map(lambda number: f"{number}s")
HOSTS = st.lists(
    st.sampled_from(["a.com:443", "b.com:443", "*.c.com:443", "x.c.com:443", "a.com:80"]),
    max_size=3,
    unique=True,
)
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "memory": SIZE,
    "shared_memory": SIZE,
    "tmp": SIZE,
    "cpus": st.sampled_from([0.05, 1, 2.5, 8, 64]),
    "pids": st.integers(8, 4096),
    "nofile": st.integers(32, 16384),
    "isolation": st.sampled_from(["runc", "gvisor"]),
    "routes": st.booleans(),
    "web_files": st.booleans(),
    "timeouts": st.fixed_dictionaries({}, optional={"call": TIME, "idle": TIME, "import": TIME}),
    "limits": st.fixed_dictionaries(
        {},
        optional={
            "outputs": st.integers(1, 10**5),
            "expansion_depth": st.integers(1, 10**5),
            "output_bytes": SIZE,
        },
    ),
    "build": st.fixed_dictionaries({}, optional={"network": st.booleans(), "source_builds": st.booleans()}),
}
OWN = st.fixed_dictionaries(
    {},
    optional={
        **KEYS,
        "gpus": st.lists(st.integers(0, 5), max_size=5, unique=True),
        "network": st.just("none") | HOSTS.map(lambda hosts: {"allow": hosts} if hosts else "none"),
        "environment": st.dictionaries(
            st.sampled_from(["HF_HOME", "OMP_NUM_THREADS", "TORCH_HOME"]), st.just("x")
        ),
        "secrets": st.lists(
            st.sampled_from(["a.com:443", "b.com:443"]).map(
                lambda host: {"name": "KEY", "host": host, "header": "A"}
            ),
            max_size=1,
        ),
    },
)
CEILINGS = st.fixed_dictionaries(
    {},
    optional={
        **KEYS,
        "gpus": st.integers(0, 5),
        "network": st.sampled_from(["none", "any"]) | HOSTS,
        "environment": st.just("any") | st.lists(st.sampled_from(["HF_*", "OMP_NUM_THREADS"]), max_size=2),
        "secrets": st.dictionaries(st.just("KEY"), st.just("a.com:443")),
    },
)


def value_at(effective: EffectivePolicy, key: str) -> Any:
    section, _, name = key.partition(".")
    value = getattr(effective, section)
    return getattr(value, name, getattr(value, f"{name}_s", None)) if name else value


def held(effective: EffectivePolicy, key: str, cap: Any) -> bool:
    """Whether `effective` keeps to one ceiling; written apart from the code that enforces it."""
    value = value_at(effective, key)
    if key == "isolation":
        return value == "gvisor" or cap == "runc"
    if key == "gpus":
        return len(value) <= cap
    if key == "secrets":
        return all(cap.get(secret.name) == secret.host for secret in value)
    if key == "environment":
        return cap == ("any",) or all(
            name in cap or any(entry[-1] == "*" and name.startswith(entry[:-1]) for entry in cap)
            for name in value
        )
    if key == "network":
        if cap == ("any",):
            return True
        allowed = [parse_destination(text) for text in cap]
        return all(
            any(one == entry or (one.is_wildcard and one.allows(entry.host, entry.port)) for one in allowed)
            for entry in value.destinations
        )
    return bool(value <= cap)


@given(OWN, OWN, CEILINGS, CEILINGS)
def test_no_mix_of_layers_gives_a_policy_over_any_ceiling(
    own: dict[str, Any], default: dict[str, Any], general: dict[str, Any], tenants: dict[str, Any]
) -> None:
    text = json.dumps({"defaults": default, "ceilings": general, "tenants": {"trial": {"ceilings": tenants}}})
    try:
        defaults = load_defaults(text.encode(), "default.yaml")
        effective = merge(load_policy(json.dumps(own).encode(), "blur.yaml"), defaults, TRIAL)
    except PolicyError as error:
        check_error(error)
        return
    general_caps = {
        **{".".join(map(str, path)): cap for path, cap in flatten(BUILT_IN.ceilings)},
        **{".".join(map(str, path)): cap for path, cap in flatten(defaults.value.ceilings)},
    }
    tenant_section = (defaults.value.tenants or {})["trial"]
    for caps in (
        general_caps,
        {".".join(map(str, path)): cap for path, cap in flatten(tenant_section.ceilings)},
    ):
        for key, cap in caps.items():
            assert held(effective, key, cap), key
    for secret in effective.secrets:
        assert any(
            entry.allows(secret.destination.host, secret.destination.port)
            for entry in effective.network.destinations
        )
    # Every value says where it is from, and merging again says the same.
    assert {row.key.partition("[")[0] for row in explain(effective)} <= set(effective.sources)
    assert (
        merge(load_policy(json.dumps(own).encode(), "blur.yaml"), defaults, TRIAL).digest()
        == effective.digest()
    )
