"""docs/policy-reference.md and the models say the same keys, defaults and ceilings, in both directions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from policies import QUOTA_KEYS, fields, format_bytes, format_duration
from policies.builtin import BUILT_IN
from policies.egress import Secret
from policies.layers import flatten, written
from policies.load import load_defaults, load_policy
from policies.model import DefaultsFile, PartialPolicy, TenantSection
from policies.path_entries import HostPath, TenantPath
from policies.quotas import BUILT_IN_QUOTAS

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "policy-reference.md").read_text()


def section(title: str) -> str:
    return DOCUMENT.split(f"{title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> dict[str, list[str]]:
    found = {}
    for line in text.splitlines():
        match = re.match(r"\| `([^`]+)` \|(.*)\|$", line)
        if match:
            found[match[1]] = [cell.strip() for cell in match[2].split(" | ")]
    return found


EXTENSION_KEYS = rows(section("## Keys of an extension's file, and of `defaults`").split("\n### ", 1)[0])
PATH_KEYS = rows(section("### Entries of `paths`").split("\n### ", 1)[0])
SECRET_KEYS = rows(section("### Entries of `secrets`").split("\n### ", 1)[0])
HELD_BY = rows(section("## What holds each key"))
DEFAULT_KEYS = rows(section("## Keys of `default.yaml`"))


def keys_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        inner = [
            part
            for part in getattr(field.annotation, "__args__", ())
            if isinstance(part, type) and issubclass(part, BaseModel) and name != "network"
        ]
        keys |= keys_of(inner[0], f"{key}.") if inner else {key}
    return keys


def test_the_reference_has_exactly_the_keys_of_an_extensions_file() -> None:
    assert set(EXTENSION_KEYS) == keys_of(PartialPolicy)


def test_the_reference_has_exactly_the_keys_of_a_path_entry() -> None:
    models = (TenantPath, HostPath)
    assert set(PATH_KEYS) == {f"paths[].{key}" for model in models for key in model.model_fields}


def test_the_reference_has_exactly_the_keys_of_a_secret() -> None:
    assert set(SECRET_KEYS) == {f"secrets[].{key}" for key in Secret.model_fields}


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_every_secret_example_of_the_reference_is_a_valid_entry(key: str) -> None:
    load_policy(f"secrets: [{SECRET_KEYS[key][-1].strip('`')}]".encode(), key)


def test_the_reference_has_exactly_the_keys_of_the_defaults_file() -> None:
    assert set(DEFAULT_KEYS) == set(DefaultsFile.model_fields) | {
        f"tenants.<tenant>.{key}" for key in TenantSection.model_fields
    }


def test_the_reference_has_exactly_the_quotas_and_their_defaults() -> None:
    table = rows(section("## Quotas of a tenant"))
    assert tuple(table) == QUOTA_KEYS
    for key, (_, default, *_rest) in table.items():
        value = getattr(BUILT_IN_QUOTAS, key)
        size = key in ("disk", "history")
        shown = format_bytes(value) if size else format_duration(value) if key == "window" else str(value)
        assert default == ("-" if value is None else f"`{shown}`"), key


def test_the_reference_states_the_real_defaults_and_ceilings() -> None:
    defaults = {".".join(map(str, path)): value for path, value in flatten(BUILT_IN.defaults)}
    ceilings = {".".join(map(str, path)): value for path, value in flatten(BUILT_IN.ceilings)}
    for key, (_, default, ceiling, *_rest) in EXTENSION_KEYS.items():
        if key in defaults and key != "paths":
            assert default == f"`{written(defaults[key], key)}`", key
        assert ceiling == (f"`{written(ceilings[key], key)}`" if key in ceilings else "-"), key


@pytest.mark.parametrize("key", EXTENSION_KEYS)
def test_every_example_of_the_reference_is_a_valid_policy(key: str) -> None:
    example = EXTENSION_KEYS[key][-1].strip("`")
    load_policy(example.encode(), key)


@pytest.mark.parametrize("key", PATH_KEYS)
def test_every_path_example_of_the_reference_is_a_valid_entry(key: str) -> None:
    load_policy(f"paths: [{PATH_KEYS[key][-1].strip('`')}]".encode(), key)


@pytest.mark.parametrize("key", DEFAULT_KEYS)
def test_every_example_for_the_defaults_file_is_valid(key: str) -> None:
    load_defaults(DEFAULT_KEYS[key][-1].strip("`").encode(), key)


def test_the_reference_names_every_variable_that_cannot_be_set() -> None:
    text = section("### Variables that cannot be set")
    for name in (*(f"{prefix}*" for prefix in fields.FORBIDDEN_VARIABLES), *fields.FORBIDDEN_NAMES):
        assert f"`{name}`" in text, name


def test_the_first_example_of_the_reference_is_a_valid_policy() -> None:
    text = DOCUMENT.split("```yaml\n", 1)[1].split("```", 1)[0]
    assert load_policy(text.encode(), "example").value.memory == 6 * 2**30


def test_every_key_names_the_test_that_holds_it() -> None:
    assert set(HELD_BY) == keys_of(PartialPolicy)


@pytest.mark.parametrize("key", HELD_BY)
def test_the_test_that_holds_a_key_exists(key: str) -> None:
    path, _, name = HELD_BY[key][-1].strip("`").partition("::")
    assert f"def {name}(" in (ROOT / "tests" / path).read_text()
