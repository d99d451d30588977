from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from ruamel.yaml import YAML

from policies import (
    CORE_EXTENSION,
    ExtensionName,
    NameInvalidError,
    PolicyError,
    PolicyStore,
    PolicySyntaxError,
    SandboxGroup,
    TenantId,
)
from policies.store import SHIPPED

Write = Callable[[str, str], Path]

BLUR = ExtensionName("blur")


def test_an_edited_file_holds_from_the_next_question_on(store: PolicyStore, write: Write) -> None:
    assert store.effective(BLUR).pids == 256
    write("blur", "pids: 100\n")
    assert store.effective(BLUR).pids == 100
    write("blur", "pids: 200\n")
    assert store.effective(BLUR).pids == 200
    write("default", "defaults: {nofile: 77}\n")
    assert store.effective(BLUR).nofile == 77


def test_an_edit_of_equal_length_with_a_forged_time_is_noticed(store: PolicyStore, write: Write) -> None:
    file = write("blur", "pids: 100\n")
    before = file.stat()
    assert store.effective(BLUR).pids == 100
    write("blur", "pids: 200\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.effective(BLUR).pids == 200


def test_an_unchanged_file_is_not_read_again(
    store: PolicyStore, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("blur", "pids: 100\n")
    store.effective(BLUR)
    monkeypatch.setattr("policies.store.read_file", lambda *_: pytest.fail("read again"))
    assert store.effective(BLUR).pids == 100


def test_a_file_that_became_wrong_stops_the_next_start_instead_of_using_old_values(
    store: PolicyStore, write: Write
) -> None:
    write("blur", "pids: 100\n")
    store.effective(BLUR)
    write("blur", "pids: many\n")
    with pytest.raises(
        PolicySyntaxError, match=r"policies/blur\.yaml:1:7: pids: 'many' is not a whole number"
    ):
        store.effective(BLUR)


@pytest.mark.parametrize("name", ["../core", "a/b", "default", "", "x\0"])
def test_a_forged_extension_name_never_becomes_a_file_name(store: PolicyStore, name: str) -> None:
    for ask in (store.effective, store.remove):
        with pytest.raises(NameInvalidError):
            ask(ExtensionName(name))


def test_a_forged_tenant_name_is_refused(store: PolicyStore) -> None:
    with pytest.raises(NameInvalidError):
        store.effective(BLUR, TenantId("../x"))


def test_an_adopted_file_is_checked_first_and_holds_at_once(store: PolicyStore, tmp_path: Path) -> None:
    draft = tmp_path / "draft.yaml"
    draft.write_text("memory: 1GiB\n")
    assert store.adopt(BLUR, draft).memory == 2**30
    assert store.effective(BLUR).memory == 2**30
    draft.write_text("memory: 900GiB\n")
    with pytest.raises(PolicyError, match="over the ceiling of 16GiB"):
        store.adopt(BLUR, draft)
    assert store.effective(BLUR).memory == 2**30
    assert [file.name for file in store.directory.iterdir()] == ["blur.yaml"]


def test_removing_a_policy_brings_the_defaults_back(store: PolicyStore, write: Write) -> None:
    write("blur", "pids: 100\n")
    assert store.remove(BLUR)
    assert store.effective(BLUR).pids == 256
    assert not store.remove(BLUR)


def test_checking_a_file_changes_nothing_and_names_the_file_as_given(
    store: PolicyStore, tmp_path: Path
) -> None:
    draft = tmp_path / "draft.yaml"
    draft.write_text("memory: 512M\n")
    with pytest.raises(PolicySyntaxError) as caught:
        store.check(draft)
    assert str(caught.value).startswith(f"{draft}:1:9: memory: '512M'")
    draft.write_text("memory: 512MiB\n")
    assert store.check(draft).memory == 2**29
    assert list(store.directory.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        store.check(tmp_path / "nothing.yaml")


def test_a_defaults_file_is_checked_for_each_tenant_it_names(store: PolicyStore, tmp_path: Path) -> None:
    draft = tmp_path / "default.yaml"
    draft.write_text("defaults: {gpus: [0, 1]}\ntenants: {trial: {ceilings: {gpus: 1}}}\n")
    with pytest.raises(PolicyError, match="gpus 2 GPUs is over the ceiling of 1"):
        store.check(draft)


def test_the_shipped_files_are_valid_and_hold_where_the_operator_has_none(store: PolicyStore) -> None:
    shipped = PolicyStore(SHIPPED)
    for name in shipped.extensions():
        shipped.effective(name)
    assert store.effective(CORE_EXTENSION).digest() == shipped.effective(CORE_EXTENSION).digest()
    assert str(store.effective(CORE_EXTENSION).source("pids")).startswith("shipped default.yaml:")


def test_members_of_a_group_with_equal_policies_share_one(store: PolicyStore, write: Write) -> None:
    write("a", "group: video\nmemory: 1GiB\n")
    write("b", "memory: 1024MiB\ngroup: video\n")
    write("c", "memory: 1GiB\n")
    assert store.members(SandboxGroup("video")) == ("a", "b")
    assert store.effective_group(SandboxGroup("video")).memory == 2**30


def test_members_of_a_group_that_differ_are_refused_with_key_and_line(
    store: PolicyStore, write: Write
) -> None:
    write("a", "group: video\nmemory: 1GiB\n")
    write("b", "group: video\nmemory: 2GiB\n")
    with pytest.raises(PolicyError) as caught:
        store.effective_group(SandboxGroup("video"))
    assert str(caught.value) == (
        "policies/b.yaml:2: extensions 'a' and 'b' share the sandbox group 'video' but differ in 'memory'; "
        "give all members the same policy, or another group"
    )
    with pytest.raises(PolicyError, match="no policy names the sandbox group 'audio'"):
        store.effective_group(SandboxGroup("audio"))


def test_files_that_are_no_policies_are_not_listed_as_extensions(
    store: PolicyStore, write: Write, directory: Path
) -> None:
    write("blur", "")
    write(".hidden", "")
    (directory / "notes.txt").write_text("")
    assert store.extensions() == ("blur", "core")


def test_the_schemas_accept_the_shipped_files_and_refuse_what_the_loader_refuses() -> None:
    schemas = PolicyStore.schema()
    yaml = YAML(typ="safe", pure=True)
    for name, kind in (("default", "default"), ("core", "extension")):
        jsonschema.validate(yaml.load((SHIPPED / f"{name}.yaml").read_text()), schemas[kind])
    refused: list[dict[str, Any]] = [
        {"memroy": "1GiB"},
        {"memory": "512M"},
        {"memory": None},
        {"cpus": 0},
        {"paths": [{}]},
    ]
    for wrong in refused:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schemas["extension"])


def test_every_key_of_the_schema_has_a_description_for_the_editor() -> None:
    for schema in PolicyStore.schema().values():
        for model in (schema, *schema["$defs"].values()):
            for key, field in model.get("properties", {}).items():
                assert field.get("description"), key
