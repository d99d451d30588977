"""What the members of a sandbox group need together, and the words when they exclude each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from policies import ExtensionName
from sandbox.environment_errors import BuildFailedError, GroupConflictError
from sandbox.group_requirements import _can_agree, merge_declared, told_of_group
from sandbox.manifests import Declared
from sandbox.requirement_lines import Wanted

FILES = {ExtensionName("one"): "policies/one.yaml", ExtensionName("two"): "policies/tenants/acme/two.yaml"}


def members(**wanted: str) -> dict[ExtensionName, Declared]:
    return {
        ExtensionName(name): Declared(
            tuple(
                Wanted(Requirement(line), f"requirements.txt:{number}")
                for number, line in enumerate(text.split(";;"), 1)
            )
        )
        for name, text in wanted.items()
    }


def test_requirements_are_added_up_and_each_place_names_its_member() -> None:
    merged = merge_declared("g", members(one="numpy<2;;piexif", two="numpy>=1.24"), FILES)
    assert [(str(item.requirement), item.place) for item in merged.wanted] == [
        ("numpy<2", "one: requirements.txt:1"),
        ("piexif", "one: requirements.txt:2"),
        ("numpy>=1.24", "two: requirements.txt:1"),
    ]


def test_a_conflict_names_both_extensions_both_versions_and_the_way_out() -> None:
    with pytest.raises(GroupConflictError) as caught:
        merge_declared("studio", members(one="piexif;;NumPy==1.26.4", two="numpy>=2"), FILES)
    assert caught.value.message == (
        "sandbox group 'studio' (extensions 'one', 'two') cannot have one environment: extension 'one' wants "
        "'NumPy==1.26.4' (requirements.txt:2) and extension 'two' wants 'numpy>=2' (requirements.txt:1)"
    )
    assert "remove 'group: studio' from policies/tenants/acme/two.yaml" in caught.value.hint


def test_requirements_for_different_machines_do_not_conflict() -> None:
    merge_declared(
        "g", members(one="numpy<2; sys_platform == 'win32'", two="numpy>=2; sys_platform == 'linux'"), FILES
    )


def test_what_only_the_resolver_sees_is_told_with_what_each_member_wants() -> None:
    error = BuildFailedError("uv could not find: alpha 1 needs gamma<1; unsatisfiable", lines=("beta 2",))
    told = told_of_group(error, "g", members(one="alpha==1;;other", two="beta==2"), FILES)
    assert "('one' wants 'alpha==1'; 'two' wants 'beta==2')" in told.message
    assert "other" not in told.message


@pytest.mark.parametrize(
    ("text", "agrees"),
    [
        (">=2,<1", False),
        (">=1.26,<2", True),
        ("==1.26.4,>=2", False),
        ("<2,>1.9", True),
        ("~=1.4,<1.4", False),
        ("==1.*,==2.*", False),
        (">1,<1.0.1", True),
        ("<1,>0.9.9", True),
        ("<=1.0,>=1.0", True),
        ("==1.2.3,!=1.2.3", False),
        ("<2,>=1!1", False),
        ("", True),
    ],
)
def test_whether_some_version_could_suit_both(text: str, agrees: bool) -> None:
    assert _can_agree(SpecifierSet(text)) is agrees


VERSIONS = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(lambda parts: ".".join(map(str, parts)))
SPECIFIERS = st.lists(
    st.builds("{}{}".format, st.sampled_from(["==", ">=", "<=", "<", ">", "!="]), VERSIONS),
    min_size=1,
    max_size=4,
)


@given(SPECIFIERS, VERSIONS)
def test_no_set_that_a_version_satisfies_is_called_a_conflict(lines: list[str], version: str) -> None:
    both = SpecifierSet(",".join(lines))
    if both.contains(version):
        assert _can_agree(both)


@pytest.mark.timeout(30)
def test_members_with_endless_wishes_are_left_to_the_resolver() -> None:
    apart = ",".join(f"!={number}.{number}" for number in range(60))
    merge_declared("g", members(one=f"p<1,{apart}", two=f"p>1,{apart}"), FILES)
    line = ";;".join(["p>0,!=3.1,!=4.1,!=5.1,!=6.1"] * 500)
    merge_declared("g", members(one=line, two=line), FILES)
