"""From what was seen to a policy: enough, never more than today's, and every line says what it rests on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from policies import (
    LOCAL_TENANT,
    Basis,
    LearnedPolicy,
    Observed,
    PolicyError,
    PolicyStore,
    Reached,
    asks_more,
    learn_policy,
    learned_policy,
    parse_extension_name,
)
from policies.learned_text import Item, Line
from policies.learning import Learned
from tests.properties import tried

NAME = parse_extension_name("pack")
MIB = 2**20
FULL = """
memory: 1GiB
isolation: gvisor
environment: {OMP_NUM_THREADS: "2"}
timeouts: {idle: 30s}
routes: true
web_files: true
network: {allow: ["api.example.com:443", "*.example.org:443"]}
secrets: [{name: KEY, host: "api.example.com:443", header: Authorization, format: "Bearer {}"}]
paths:
  - {tenant: input, access: ro}
  - {tenant: output, access: rw}
  - {tenant: user/notes, access: rw}
"""
CEILINGS = 'ceilings: {network: ["*.example.org:443", "api.example.com:443"], secrets: {KEY: "api.example.com:443"}}\n'


def seen_a_little() -> Observed:
    seen = Observed(
        calls=1, memory=100 * MIB, memory_peak=150 * MIB, pids=5, cpus=0.3, import_s=1.0, call_s=20.0
    )
    seen.claims.has_spoken = True
    return seen


def learned(tmp_path: Path, seen: Observed, policy: str = "", defaults: str = CEILINGS) -> LearnedPolicy:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "default.yaml").write_text(defaults)
    if policy:
        (tmp_path / "pack.yaml").write_text(policy)
    store = PolicyStore(tmp_path)
    now = store.effective(NAME)
    found = learn_policy(store, NAME, LOCAL_TENANT, seen, now)
    assert not asks_more(now, found.effective)
    return found


def line(found: LearnedPolicy, start: str) -> str:
    (only,) = [each for each in found.text.splitlines() if each.startswith(start)]
    return only


def test_a_figure_gets_headroom_is_rounded_up_and_says_what_was_seen(tmp_path: Path) -> None:
    found = learned(tmp_path, seen_a_little())
    assert found.effective.memory == 128 * MIB
    assert found.effective.timeouts.call_s == 80
    assert "measured: 100.0 MiB needed at most (with file cache 150.0 MiB); times 1.25" in line(
        found, "memory:"
    )
    assert found.effective.cpus == 0.5


def test_what_the_extension_was_granted_and_did_not_use_goes(tmp_path: Path) -> None:
    seen = seen_a_little()
    seen.claims.reads["/app/input/a.png"] = 2
    found = learned(tmp_path, seen, FULL)
    policy = found.effective
    assert (policy.network.allow, policy.secrets, policy.routes, policy.web_files) == ((), (), False, False)
    assert [(path.tenant, path.access) for path in policy.paths] == [("input", "ro")]
    assert '# - {tenant: "user/notes", access: rw, scope: extension}' in found.text


def test_what_was_used_stays_and_no_more_of_it_than_was_used(tmp_path: Path) -> None:
    seen = seen_a_little()
    seen.reached["a.example.org:443"] = Reached(count=2, up=1000, down=5000)
    seen.reached["api.example.com:443"] = Reached(count=1, secrets={"KEY"})
    seen.claims.routes, seen.claims.web_directory = ("GET /x",), "js"
    seen.written["/app/output"] = (5 * MIB, 2)
    seen.claims.reads["/app/user/notes/a.txt"] = 1
    policy = learned(tmp_path, seen, FULL).effective
    assert policy.network.allow == ("a.example.org:443", "api.example.com:443"), (
        "the wildcard became the name"
    )
    assert [secret.name for secret in policy.secrets] == ["KEY"]
    assert policy.routes
    assert policy.web_files
    assert [(path.tenant, path.access) for path in policy.paths] == [("output", "rw"), ("user/notes", "ro")]


def test_what_a_run_cannot_tell_is_kept_from_the_file_that_it_replaces(tmp_path: Path) -> None:
    found = learned(tmp_path, seen_a_little(), FULL)
    assert found.effective.isolation == "gvisor"
    assert found.effective.pids == 64, "the least under gVisor"
    assert found.effective.environment == {"OMP_NUM_THREADS": "2"}
    assert found.effective.timeouts.idle_s == 30


def test_a_claim_adds_nothing_and_a_wish_says_which_ceiling_stands_against_it(tmp_path: Path) -> None:
    seen = seen_a_little()
    seen.claims.tmp = 2**50
    seen.claims.hosts["evil.example.net:443"] = 3
    seen.claims.hosts["api.example.com:443"] = 1
    seen.claims.routes = ("GET /x",)
    seen.claims.variables["HF_TOKEN"] = 1
    found = learned(tmp_path, seen)
    assert found.effective.tmp == 256 * MIB
    assert not found.effective.network
    assert not found.effective.routes
    assert "could not be granted today: network evil.example.net:443" in line(
        found, '#     - "evil.example.net:443"'
    )
    assert "could not be" not in line(found, '#     - "api.example.com:443"')
    assert "claimed" in line(found, "# routes: true")
    assert "never here" in line(found, "#   HF_TOKEN")


def test_a_limit_that_was_met_stays_and_more_is_a_wish(tmp_path: Path) -> None:
    seen = seen_a_little()
    seen.met["memory"] = "killed: memory cap 2 GiB"
    seen.refused["b.example.org:443"] = 4
    found = learned(tmp_path, seen)
    assert line(found, "memory: 2GiB").count("met the limit")
    assert line(found, "# memory: 4GiB")
    assert "measured: asked for 4 times and refused" in line(found, '#     - "b.example.org:443"')
    over = learned(tmp_path, seen, defaults="ceilings: {memory: 2GiB}\n")
    assert "could not be granted today: memory 4GiB is over the ceiling" in line(over, "# memory: 4GiB")


def test_of_a_pack_that_cannot_be_imported_nothing_is_taken_away(tmp_path: Path) -> None:
    seen = Observed(failed_import="OSError: no", memory=MIB)
    found = learned(tmp_path, seen, FULL)
    assert not asks_more(found.effective, PolicyStore(tmp_path).effective(NAME))
    assert any("its import failed" in note for note in found.notes)


HOSTILE = st.text(min_size=1, max_size=150)


@settings(
    max_examples=tried(5, 100),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    paths=st.lists(HOSTILE, max_size=8),
    words=st.lists(HOSTILE, max_size=8),
    figures=st.lists(st.integers(0, 2**60), min_size=6, max_size=6),
)
def test_whatever_is_claimed_the_file_is_valid_and_allows_no_more(
    tmp_path: Path, paths: list[str], words: list[str], figures: list[int]
) -> None:
    seen = seen_a_little()
    claims = seen.claims
    claims.tmp, claims.scratch, claims.nofile, seen.memory, seen.pids, seen.output_bytes = figures
    for text in paths:
        claims.reads[f"/{text}"] += 1
        claims.writes[f"/app/{text}"] += 1
        claims.walls[text] += 1
    for text in words:
        claims.hosts[text] += 1
        claims.variables[text] += 1
        seen.met.setdefault("pids", text)
        seen.crossings[text] += 1
    seen.slowest = "\n".join(words)
    claims.web_directory = "x".join(words) or None
    found = learned(tmp_path, seen, FULL)
    assert len(found.text.encode()) < 64 * 1024


@pytest.mark.parametrize("key", ["memory", "pids", "tmp"])
def test_a_figure_that_nobody_could_read_changes_nothing(tmp_path: Path, key: str) -> None:
    found = learned(tmp_path, Observed(calls=1))
    assert getattr(found.effective, key) == getattr(PolicyStore(tmp_path).effective(NAME), key)
    assert "not observed" in line(found, f"{key}:")


def test_a_learned_policy_that_would_allow_more_is_refused_whoever_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PolicyStore(tmp_path)
    more = Learned([Line("memory", (Item("3GiB", "a mistake", Basis.MEASURED),))])
    monkeypatch.setattr(learned_policy, "learn", lambda *_: more)
    with pytest.raises(PolicyError, match="would allow more than today's policy does: memory: 2GiB -> 3GiB"):
        learn_policy(store, NAME, LOCAL_TENANT, Observed(), store.effective(NAME))
