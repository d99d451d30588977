"""Quotas in default.yaml: which line wins, and that a mistake is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies import PolicyStore, PolicySyntaxError, TenantId

A, B = TenantId("a"), TenantId("b")


def store(folder: Path, text: str) -> PolicyStore:
    (folder / "default.yaml").write_text(text)
    return PolicyStore(folder)


def test_a_tenants_own_quota_wins_key_by_key_and_says_its_line(tmp_path: Path) -> None:
    policies = store(
        tmp_path,
        "quotas:\n  queued: 50\n  weight: 2\ntenants:\n  a:\n    quotas: {queued: 5, disk: 1GiB}\n",
    )
    ours, theirs = policies.quotas(A), policies.quotas(B)
    assert (ours.queued, ours.weight, ours.disk) == (5, 2, 2**30)
    assert (theirs.queued, theirs.weight, theirs.disk) == (50, 2, 100 * 2**30)
    assert ours.source("queued").endswith("default.yaml:6")
    assert theirs.source("queued").endswith("default.yaml:2")
    assert theirs.source("disk") == "built-in"


def test_a_deleted_file_leaves_the_built_in_quotas(tmp_path: Path) -> None:
    quotas = store(tmp_path, "").quotas(A)
    assert (quotas.requests, quotas.window, quotas.history) == (100, 3600.0, 256 * 2**20)
    assert quotas.cpu_seconds is None


def test_the_shipped_file_says_what_is_built_in(tmp_path: Path) -> None:
    built_in = store(tmp_path, "").quotas(A)
    assert PolicyStore(tmp_path / "none").quotas(A) == type(built_in)(
        **{key: getattr(built_in, key) for key in built_in.__dataclass_fields__ if key != "sources"},
        sources=PolicyStore(tmp_path / "none").quotas(A).sources,
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("quotas: {qeued: 3}", "did you mean 'queued'"),
        ("quotas: {disk: 5GB}", "disk"),
        ("quotas: {weight: 0}", "weight"),
        ("tenants: {a: {quotas: {prompts: many}}}", "prompts"),
    ],
)
def test_a_quota_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(PolicySyntaxError) as refused:
        store(tmp_path, line + "\n").quotas(A)
    assert words in str(refused.value)
    assert "default.yaml:1" in str(refused.value)
