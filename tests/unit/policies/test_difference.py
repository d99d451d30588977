"""What a new policy asks for beyond an old one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import LOCAL_TENANT, asks_more, compare
from policies.load import load_defaults, load_policy
from policies.merge import merge
from policies.model import EffectivePolicy

RAISED = "ceilings: {network: any, secrets: {K: 'a.com:443', L: 'a.com:443'}}\npath_roots: [/usr/share]\n"


def effective(text: str) -> EffectivePolicy:
    return merge(
        load_policy(text.encode(), "blur.yaml"), load_defaults(RAISED.encode(), "default.yaml"), LOCAL_TENANT
    )


def changes(old: str, new: str) -> list[tuple[str, bool]]:
    return [(str(change), change.is_more) for change in compare(effective(old), effective(new))]


NET = "network: {allow: ['a.com:443']}\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("memory: 1GiB", "memory: 2GiB", "memory: 1GiB -> 2GiB"),
        ("cpus: 1", "cpus: 2", "cpus: 1 -> 2"),
        ("timeouts: {call: 1s}", "timeouts: {call: 2m}", "timeouts.call: 1s -> 2m"),
        ("limits: {expansion_depth: 1}", "limits: {expansion_depth: 2}", "limits.expansion_depth: 1 -> 2"),
        ("build: {network: false}", "", "build.network: false -> true"),
        ("", "build: {source_builds: true}", "build.source_builds: false -> true"),
        ("", "routes: true", "routes: false -> true"),
        ("", "web_files: true", "web_files: false -> true"),
        ("isolation: gvisor", "", "isolation: gvisor -> runc"),
        ("", "gpus: [1]", "gpus: 1 (new)"),
        ("", "environment: {A: x}", "environment.A: x (new)"),
        ("environment: {A: x}", "environment: {A: y}", "environment.A: x -> y"),
        ("", "group: g", "group: g (new)"),
        ("group: a", "group: b", "group: a -> b"),
        ("", NET, "network: a.com:443 (new)"),
        ("network: {allow: ['a.b.com:443']}", "network: {allow: ['*.b.com:443', 'a.b.com:443']}",
         "network: *.b.com:443 (new)"),
        (NET, NET + "secrets: [{name: K, host: 'a.com:443', header: A}]",
         "secrets: {name: K, host: a.com:443, header: A, format: '{}'} (new)"),
        ("paths: [{tenant: input}]", "paths: [{tenant: input}, {tenant: models}]",
         "paths: {tenant: models, access: ro} (new)"),
        ("paths: [{tenant: input}]", "paths: [{tenant: input, access: rw}]",
         "paths: {tenant: input, access: ro} -> {tenant: input, access: rw}"),
        ("paths: [{tenant: temp}]", "paths: [{tenant: temp, scope: tenant}]",
         "paths: {tenant: temp, access: ro, scope: extension} -> {tenant: temp, access: ro, scope: tenant}"),
        ("paths: []", "paths: [{host: /usr/share, mount: /mnt/s}]",
         "paths: {host: /usr/share, mount: /mnt/s, access: ro} (new)"),
    ],
)  # fmt: skip
def test_what_asks_for_more_is_marked_and_the_way_back_is_not(old: str, new: str, said: str) -> None:
    assert changes(old, new) == [(said, True)]
    back = changes(new, old)
    assert len(back) == 1
    assert not back[0][1] or old.startswith(("group: a", "environment"))  # another group, another value


def test_what_is_covered_by_a_wildcard_before_is_no_more() -> None:
    old, new = effective("network: {allow: ['*.b.com:443']}"), effective("network: {allow: ['a.b.com:443']}")
    assert asks_more(old, new) == ()
    assert len(compare(old, new)) == 2


def test_equal_policies_differ_in_nothing() -> None:
    assert compare(effective("memory: 1GiB"), effective("memory: 1024MiB")) == ()


def test_a_change_knows_its_line() -> None:
    (change,) = asks_more(effective(""), effective("cpus: 1\nmemory: 4GiB\n"))
    assert str(change.source) == "blur.yaml:2"


TEXTS = st.sampled_from(
    ["", "memory: 1GiB", "memory: 4GiB", "routes: true", "isolation: gvisor", NET, "gpus: [0]", "gpus: [1]",
     "paths: []", "paths: [{tenant: temp, access: rw}]", "environment: {A: x}", "group: g"]
)  # fmt: skip


@given(TEXTS, TEXTS)
def test_policies_are_equal_exactly_when_nothing_differs(one: str, other: str) -> None:
    old, new = effective(one), effective(other)
    assert (old.digest() == new.digest()) == (compare(old, new) == ())
    assert set(asks_more(old, new)) <= set(compare(old, new))
