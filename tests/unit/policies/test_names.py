from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    NameInvalidError,
    parse_extension_name,
    parse_node_id,
    parse_prompt_id,
    parse_sandbox_group,
    parse_sandbox_id,
    parse_tenant_id,
    suggest_extension_name,
)

Parser = Callable[[Any], str]

PARSERS: list[Parser] = [
    parse_extension_name,
    parse_prompt_id,
    parse_sandbox_group,
    parse_sandbox_id,
    parse_tenant_id,
]


@pytest.mark.parametrize("name", ["ComfyUI-Custom-Scripts", "ComfyUI_essentials", "was.node-suite", "a"])
def test_directory_names_of_real_packs_are_extension_names(name: str) -> None:
    assert parse_extension_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", "../x", "a/b", "a\n", "a\0", " a", "-a", "ä", "x" * 65]
)
def test_an_extension_name_that_could_be_a_path_or_an_option_is_refused(name: str) -> None:
    with pytest.raises(NameInvalidError, match="use 1 to 64 of"):
        parse_extension_name(name)


@pytest.mark.parametrize("name", ["default", "Default"])
def test_no_extension_can_take_the_name_of_the_defaults_file(name: str) -> None:
    with pytest.raises(NameInvalidError, match=r"reserved .*; choose another with --name"):
        parse_extension_name(name)


@pytest.mark.parametrize("parse", [*PARSERS, parse_node_id])
@pytest.mark.parametrize("value", [None, 3, ["a"], b"a", {}])
def test_whatever_json_brings_instead_of_text_is_refused_as_a_name(parse: Parser, value: Any) -> None:
    with pytest.raises(NameInvalidError):
        parse(value)


@given(st.text(max_size=80))
def test_a_name_that_is_accepted_is_one_harmless_path_component(text: str) -> None:
    for parse in PARSERS:
        try:
            name = parse(text)
        except NameInvalidError:
            continue
        assert name == text
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set("/\\ '\"$:;")
        assert name not in (".", "..")
        assert not name.startswith(("-", "."))


def test_tenants_are_lower_case_so_that_no_two_differ_only_by_case() -> None:
    assert parse_tenant_id("studio-7") == "studio-7"
    with pytest.raises(NameInvalidError, match="tenant name 'Studio' is not allowed; use 1 to 32 of a-z"):
        parse_tenant_id("Studio")


def test_a_prompt_id_may_be_a_uuid_or_a_clients_own_word() -> None:
    assert parse_prompt_id("0f8fad5b-d9cb-469f-a165-70867728950e")
    assert parse_prompt_id("my_run_1")


@pytest.mark.parametrize("node", ["3", "57:8", "node with spaces", "é", "a.b.0"])
def test_a_node_id_may_be_nearly_anything_comfyui_allows(node: str) -> None:
    assert parse_node_id(node) == node


@pytest.mark.parametrize("node", ["", "x" * 16_385, "a\x1b[2J", "a\nb", "\0", "\ud800", "a\u2028b"])
def test_a_node_id_that_would_break_a_log_line_is_refused(node: str) -> None:
    with pytest.raises(NameInvalidError, match="1 to 16384 characters"):
        parse_node_id(node)


def test_a_directory_name_becomes_the_nearest_extension_name() -> None:
    assert suggest_extension_name("My Pack (v2)") == "My-Pack-v2"
    assert suggest_extension_name("..évil/../pack.") == "evil-.-pack"
    with pytest.raises(NameInvalidError):
        suggest_extension_name("包")


@given(st.text())
def test_a_suggested_name_is_always_a_valid_one(text: str) -> None:
    try:
        name = suggest_extension_name(text)
    except NameInvalidError:
        return
    assert parse_extension_name(name) == name


def test_a_refused_name_is_quoted_without_its_control_characters() -> None:
    with pytest.raises(NameInvalidError) as caught:
        parse_sandbox_id("\x1b[31mred")
    assert "\x1b" not in str(caught.value)
