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
from policies.files import SHIPPED
from policies.merge import merge

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
    monkeypatch.setattr("policies.files.read_file", lambda *_: pytest.fail("read again"))
    assert store.effective(BLUR).pids == 100


def test_unchanged_files_are_not_merged_again_and_changed_ones_are(
    store: PolicyStore, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[str] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        merged.append("merged")
        return merge(*arguments, **named)

    monkeypatch.setattr("policies.store.merge", counted)
    write("blur", "pids: 100\n")
    for _ in range(3):
        assert store.effective(BLUR).pids == 100
    assert len(merged) == 1
    write("default", "ceilings: {pids: 1000}\n")
    for _ in range(2):
        store.effective(BLUR)
    assert store.effective(BLUR, TenantId("other")).pids == 256
    assert len(merged) == 3
    (store.directory / "blur.yaml").unlink()
    assert store.effective(BLUR).pids == 256


def test_extensions_without_a_file_of_their_own_share_one_policy_until_one_has_one(
    store: PolicyStore, write: Write
) -> None:
    sharpen = ExtensionName("sharpen")
    shared = store.effective(BLUR)
    assert store.effective(sharpen) is shared
    assert store.effective(sharpen, TenantId("other")) is not shared
    write("blur", "pids: 100\n")
    assert (store.effective(BLUR).pids, store.effective(sharpen).pids) == (100, 256)
    (store.directory / "blur.yaml").unlink()
    assert store.effective(BLUR) is shared


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
        "policies/b.yaml:2: extensions 'a' and 'b' share the sandbox group 'video' but differ in 'memory': "
        "1GiB (policies/a.yaml:2), 2GiB (policies/b.yaml:2); "
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


TRIAL, OTHER = TenantId("trial"), TenantId("other")


def theirs(directory: Path, tenant: str, name: str, text: str) -> Path:
    """A tenant's own policy file."""
    file = directory / "tenants" / tenant / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_packs_of_two_tenants_share_a_name_and_no_policy(
    store: PolicyStore, write: Write, directory: Path
) -> None:
    write("blur", "pids: 100\n")
    theirs(directory, "trial", "blur.yaml", "pids: 50\n")
    assert store.effective(BLUR).pids == 100
    assert store.effective(BLUR, TRIAL).pids == 50
    assert str(store.effective(BLUR, TRIAL).source("pids")) == "policies/tenants/trial/blur.yaml:1"
    assert store.effective(BLUR, OTHER).pids == 256
    assert store.extensions(TRIAL) == ("blur", "core")
    assert store.extensions(OTHER) == ("core",)
    assert store.tenants() == ("trial",)


def test_the_built_in_nodes_have_one_policy_for_all_unless_a_tenant_has_a_file(
    store: PolicyStore, write: Write, directory: Path
) -> None:
    write("core", "pids: 100\n")
    assert store.effective(CORE_EXTENSION, TRIAL).pids == 100
    theirs(directory, "trial", "core.yaml", "pids: 50\n")
    assert store.effective(CORE_EXTENSION, TRIAL).pids == 50
    assert store.effective(CORE_EXTENSION, OTHER).pids == 100


def test_a_file_of_the_local_tenant_in_the_wrong_place_is_an_error_and_not_nothing(
    store: PolicyStore, directory: Path
) -> None:
    theirs(directory, "local", "blur.yaml", "pids: 50\n")
    with pytest.raises(
        PolicyError, match=r"policies/tenants/local/blur.yaml: policies of the tenant 'local' lie in"
    ):
        store.effective(BLUR)


def test_a_tenants_policy_is_adopted_and_removed_for_that_tenant(store: PolicyStore, tmp_path: Path) -> None:
    draft = tmp_path / "draft.yaml"
    draft.write_text("pids: 50\n")
    store.adopt(BLUR, draft, TRIAL)
    assert (store.effective(BLUR, TRIAL).pids, store.effective(BLUR).pids) == (50, 256)
    assert not store.remove(BLUR)
    assert store.remove(BLUR, TRIAL)
    assert store.effective(BLUR, TRIAL).pids == 256


def test_a_tenants_adopted_policy_stays_under_that_tenants_ceilings(
    store: PolicyStore, write: Write, tmp_path: Path
) -> None:
    write("default", "tenants: {trial: {ceilings: {pids: 64}}}\n")
    draft = tmp_path / "draft.yaml"
    draft.write_text("pids: 65\n")
    with pytest.raises(PolicyError, match="pids 65 is over the ceiling of 64"):
        store.adopt(BLUR, draft, TRIAL)
    store.adopt(BLUR, draft, OTHER)


def test_the_operators_own_file_wins_over_an_adopted_one(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "policies", adopted=tmp_path / "adopted")
    store.directory.mkdir()
    draft = tmp_path / "draft.yaml"
    draft.write_text("pids: 50\n")
    for tenant in (None, TRIAL):
        args = () if tenant is None else (tenant,)
        store.adopt(BLUR, draft, *args)
        assert store.effective(BLUR, *args).pids == 50
        assert store.extensions(*args) == ("blur", "core")
    assert list(store.directory.iterdir()) == []
    (store.directory / "blur.yaml").write_text("pids: 70\n")
    assert store.effective(BLUR).pids == 70
    with pytest.raises(
        PolicyError, match=r"policies/blur.yaml: the operator's own file says what 'blur' may use"
    ):
        store.adopt(BLUR, draft)
    # Nobody who adopts can speak for the defaults or for the built-in nodes.
    (tmp_path / "adopted" / "default.yaml").write_text("ceilings: {pids: 4000}\ndefaults: {pids: 4000}\n")
    (tmp_path / "adopted" / "core.yaml").write_text("pids: 50\n")
    assert store.effective(CORE_EXTENSION).pids == 256


@pytest.mark.parametrize("name", ["Blur.yaml", "BLUR.YAML", "blur.yml", "blur.YML"])
def test_a_file_whose_name_is_nearly_right_is_an_error_and_not_nothing(
    store: PolicyStore, directory: Path, name: str
) -> None:
    (directory / name).write_text("pids: 50\n")
    with pytest.raises(
        PolicyError, match=f"policies/{name}: this is not the file of 'blur', .*; call it 'blur.yaml'"
    ):
        store.effective(BLUR)


@pytest.mark.parametrize("name", ["default.yml", "Default.yaml"])
def test_a_defaults_file_whose_name_is_nearly_right_is_an_error(
    store: PolicyStore, directory: Path, name: str
) -> None:
    (directory / name).write_text("ceilings: {pids: 64}\n")
    with pytest.raises(PolicyError, match=f"policies/{name}: this is not the file of 'default'"):
        store.effective(BLUR)


def test_a_link_to_outside_the_directory_is_no_policy(
    store: PolicyStore, directory: Path, tmp_path: Path
) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "policy.yaml").write_text("memory: 16GiB\n")
    (directory / "blur.yaml").symlink_to(pack / "policy.yaml")
    with pytest.raises(
        PolicyError, match=r"policies/blur.yaml: this link leads out of the directory of policies"
    ):
        store.effective(BLUR)
    (directory / "blur.yaml").unlink()
    (directory / "tenants").mkdir()
    (directory / "tenants" / "trial").symlink_to(pack)
    (pack / "blur.yaml").write_text("memory: 16GiB\n")
    with pytest.raises(PolicyError, match="leads out"):
        store.effective(BLUR, TRIAL)
    (directory / "glow.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(PolicyError, match=r"policies/glow.yaml: this link leads nowhere"):
        store.effective(ExtensionName("glow"))
    (directory / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(PolicyError, match=r"policies/loop.yaml: this link cannot be followed"):
        store.effective(ExtensionName("loop"))


def test_links_inside_the_directory_are_followed_when_they_are_swapped(
    store: PolicyStore, directory: Path
) -> None:
    for version, pids in (("one", 50), ("two", 60)):  # the way configuration is mounted into containers
        (directory / version).mkdir()
        (directory / version / "blur.yaml").write_text(f"pids: {pids}\n")
    (directory / "data").symlink_to("one")
    (directory / "blur.yaml").symlink_to("data/blur.yaml")
    assert store.effective(BLUR).pids == 50
    assert str(store.effective(BLUR).source("pids")) == "policies/blur.yaml:1"
    (directory / "new").symlink_to("two")
    (directory / "new").rename(directory / "data")
    assert store.effective(BLUR).pids == 60


@pytest.mark.parametrize("kind", ["directory", "fifo", "huge"])
def test_what_is_no_small_regular_file_is_refused_at_once(
    store: PolicyStore, directory: Path, kind: str
) -> None:
    file = directory / "blur.yaml"
    if kind == "directory":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        with file.open("wb") as stream:
            stream.truncate(1 << 40)
    with pytest.raises(PolicyError):
        store.effective(BLUR)


def test_nothing_in_a_packs_directory_is_read(
    store: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = tmp_path / "blur"
    for name in (
        "blur.yaml",
        "default.yaml",
        "policies/blur.yaml",
        "policies/tenants/trial/blur.yaml",
        "policy.yaml",
    ):
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        (pack / name).write_text("memory: 16GiB\nroutes: true\n")
    before = store.effective(BLUR, TRIAL).digest()
    monkeypatch.chdir(pack)
    assert store.effective(BLUR, TRIAL).digest() == before
    assert not store.effective(BLUR, TRIAL).routes


def test_a_file_that_changes_between_check_and_use_changes_the_digest(
    store: PolicyStore, write: Write
) -> None:
    write("blur", "pids: 100\n")
    counted_on = store.effective(BLUR).digest()  # what a request to the launcher carries
    write("blur", "pids: 200\n")
    assert PolicyStore(store.directory).effective(BLUR).digest() != counted_on


def test_what_was_checked_is_what_is_adopted(
    store: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = tmp_path / "draft.yaml"
    draft.write_text("pids: 100\n")

    def merged_and_swapped(*args: Any, **kwargs: Any) -> Any:
        draft.write_text("pids: 2000\n")  # after the check, before the write
        return merge(*args, **kwargs)

    monkeypatch.setattr("policies.store.merge", merged_and_swapped)
    store.adopt(BLUR, draft)
    assert store.effective(BLUR).pids == 100


def test_members_that_differ_in_a_variable_are_named_without_what_it_holds(
    store: PolicyStore, write: Write
) -> None:
    write("a", "group: video\nenvironment: {KEY: hidden-one}\n")
    write("b", "group: video\nenvironment: {KEY: hidden-two}\n")
    with pytest.raises(PolicyError) as caught:
        store.effective_group(SandboxGroup("video"))
    assert str(caught.value) == (
        "policies/b.yaml:2: extensions 'a' and 'b' share the sandbox group 'video' but differ in "
        "'environment.KEY': policies/a.yaml:2, policies/b.yaml:2; give all members the same policy, or another group"
    )


def test_a_member_that_lacks_a_line_is_named_with_the_line_of_the_one_that_has_it(
    store: PolicyStore, write: Write
) -> None:
    write("a", "group: video\ntimeouts:\n  call: 1h\n")
    write("b", "group: video\n")
    with pytest.raises(PolicyError) as caught:
        store.effective_group(SandboxGroup("video"))
    assert str(caught.value).startswith("policies/a.yaml:3: ")
    assert "differ in 'timeouts.call': 1h (policies/a.yaml:3), 10m (shipped default.yaml:" in str(
        caught.value
    )


def test_groups_of_two_tenants_have_nothing_to_do_with_each_other(
    store: PolicyStore, write: Write, directory: Path
) -> None:
    write("a", "group: video\nmemory: 1GiB\n")
    theirs(directory, "trial", "b.yaml", "group: video\nmemory: 4GiB\n")
    assert store.members(SandboxGroup("video")) == ("a",)
    assert store.members(SandboxGroup("video"), TRIAL) == ("b",)
    assert store.effective_group(SandboxGroup("video"), TRIAL).memory == 4 * 2**30


def test_where_to_write_is_the_file_that_holds_or_the_one_to_make(tmp_path: Path) -> None:
    own, adopted = tmp_path / "policies", tmp_path / "adopted"
    store = PolicyStore(own, adopted=adopted)
    acme = TenantId("acme")
    assert store.place_to_write(BLUR) == "policies/blur.yaml (a new file)"
    assert store.place_to_write(BLUR, acme) == "policies/tenants/acme/blur.yaml (a new file)"
    assert store.place_to_write(CORE_EXTENSION) == "policies/core.yaml (a copy of the shipped core.yaml)"
    assert (
        store.place_to_write(CORE_EXTENSION, acme)
        == "policies/tenants/acme/core.yaml (a copy of the shipped core.yaml)"
    )
    given = tmp_path / "given.yaml"
    given.write_text("pids: 100\n")
    store.adopt(BLUR, given, acme)
    assert (
        store.place_to_write(BLUR, acme)
        == "policies/tenants/acme/blur.yaml (a copy of adopted/tenants/acme/blur.yaml)"
    )
    assert store.place_to_write(BLUR) == "policies/blur.yaml (a new file)"
    (own / "tenants/acme").mkdir(parents=True)
    for name in ("blur.yaml", "core.yaml", "tenants/acme/blur.yaml"):
        (own / name).write_text("pids: 100\n")
    assert store.place_to_write(BLUR) == "policies/blur.yaml"
    assert store.place_to_write(BLUR, acme) == "policies/tenants/acme/blur.yaml"
    assert store.place_to_write(CORE_EXTENSION) == "policies/core.yaml"
    assert (
        store.place_to_write(CORE_EXTENSION, acme)
        == "policies/tenants/acme/core.yaml (a copy of policies/core.yaml)"
    )


def test_what_is_written_where_it_says_holds(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "policies", adopted=tmp_path / "adopted")
    for tenant in (TenantId("local"), TenantId("acme")):
        for extension in (BLUR, CORE_EXTENSION):
            place, _, _ = store.place_to_write(extension, tenant).partition(" (")
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_text("group: shared\n")
            assert store.effective(extension, tenant).group == "shared"
            assert store.place_to_write(extension, tenant) == place
