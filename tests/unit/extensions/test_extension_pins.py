"""Contents are pinned: what lies on the disk is what was added, or it does not run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from engine.extension_errors import SourceRefusedError
from engine.extension_pins import parse_pin
from policies import CORE_EXTENSION, LOCAL_TENANT
from sandbox import AdvisoryDatabase, AdvisoryDatabaseError
from sandbox.errors import StartError
from tests.unit.environments.test_advisories import GHSA
from tests.unit.extensions.test_extensions import BLUR, House

pytestmark = pytest.mark.anyio


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path.resolve())


def copy_of(house: House) -> Path:
    return house.places.tenant(LOCAL_TENANT) / "extensions" / "blur" / house.copies()[0]


async def test_a_pack_with_another_content_than_the_pin_is_not_added(house: House) -> None:
    async with house.open() as registry:
        with pytest.raises(
            SourceRefusedError, match=r"content is sha256:[0-9a-f]{64}, and the pin says"
        ) as caught:
            await registry.add(LOCAL_TENANT, house.pack(), pin="0" * 64)
        assert [info.name for info in await registry.list(LOCAL_TENANT)] == [CORE_EXTENSION]
        found = parse_pin(caught.value.message.split()[4].rstrip(","))
        info = await registry.add(LOCAL_TENANT, house.pack(), pin=found)
        assert info.content_hash == found


@pytest.mark.parametrize("text", ["", "sha256:", "md5:" + "0" * 64, "0" * 63, "sha256:" + "g" * 64, "0" * 65])
def test_what_is_no_content_hash_is_refused(text: str) -> None:
    with pytest.raises(SourceRefusedError):
        parse_pin(text)


async def test_an_update_shows_how_the_pin_changes_and_can_be_pinned_itself(house: House) -> None:
    async with house.open() as registry:
        before = await registry.add(LOCAL_TENANT, house.pack(old_txt="x"))
        (house.pack(first="# nodes: Blur", new_txt="y") / "old.txt").unlink()
        with pytest.raises(SourceRefusedError, match="the pin says"):
            await registry.reload(LOCAL_TENANT, BLUR, pin=before.content_hash)
        assert (await registry.get(LOCAL_TENANT, BLUR)).content_hash == before.content_hash
        lines: list[str] = []
        after = await registry.reload(LOCAL_TENANT, BLUR, lines.append)
        assert f"the pin changes from sha256:{before.content_hash} to sha256:{after.content_hash}" in lines
        assert {"new: new.txt", "gone: old.txt", "changed: __init__.py"} <= set(lines)


@pytest.mark.parametrize("how", ["changed", "added", "gone", "link", "directory"])
async def test_a_copy_that_was_changed_does_not_run(house: House, how: str) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack(extra_txt="x"))
        (only,) = house.sandboxes.list(LOCAL_TENANT)
        await house.sandboxes.stop(LOCAL_TENANT, only.id)
        await registry.to_run.files(LOCAL_TENANT, BLUR)
        file = copy_of(house) / "extra.txt"
        if how == "changed":
            file.chmod(0o644)
            file.write_text("y")
        elif how == "added":
            (copy_of(house) / "sitecustomize.py").write_text("")
        elif how == "gone":
            file.unlink()
        elif how == "link":
            file.rename(house.root / "outside.txt")
            file.symlink_to(house.root / "outside.txt")
        else:
            file.unlink()
            os.mkfifo(file)
        with pytest.raises(StartError, match="is not what was pinned") as caught:
            await house.sandboxes.acquire(LOCAL_TENANT, BLUR)
        assert "ringfence extension reload blur" in caught.value.hint
        verified = await registry.supply.verify(LOCAL_TENANT, BLUR)
        assert "is not what was pinned" in verified.problems[0]
        await registry.reload(LOCAL_TENANT, BLUR)
        assert (await registry.supply.verify(LOCAL_TENANT, BLUR)).problems == ()


async def test_a_copy_is_read_once_and_again_only_when_it_was_touched(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    import engine.extension_pins as pins

    read: list[Path] = []

    def count(name: str, code: Path, content_hash: str) -> None:
        read.append(code)

    monkeypatch.setattr(pins, "check_content", count)
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        (only,) = house.sandboxes.list(LOCAL_TENANT)
        await house.sandboxes.stop(LOCAL_TENANT, only.id)
        read.clear()
        for _ in range(3):
            await registry.to_run.files(LOCAL_TENANT, BLUR)
        assert read == []
        os.utime(copy_of(house) / "__init__.py")
        await registry.to_run.files(LOCAL_TENANT, BLUR)
        assert len(read) == 1


async def test_an_environment_that_was_changed_is_told_by_verify(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack(requirements_txt="numpy"))
        assert (await registry.supply.verify(LOCAL_TENANT, BLUR)).problems == ()
        house.environments.changed.add("numpy-one")
        assert (await registry.supply.verify(LOCAL_TENANT, BLUR)).problems == (
            "environment numpy-one is not as it was built",
        )
        assert (await registry.supply.verify(LOCAL_TENANT, CORE_EXTENSION)).problems == ()


# -- locks -------------------------------------------------------------------------------------------------------------


async def test_a_lock_outlives_the_host_and_is_handed_in_at_every_rebuild(house: House) -> None:
    async with house.open() as registry:
        before = await registry.add(LOCAL_TENANT, house.pack(requirements_txt="numpy"))
        assert house.environments.kept == [None]
    async with house.open() as registry:
        house.pack(first="# nodes: Blur", requirements_txt="numpy")
        after = await registry.reload(LOCAL_TENANT, BLUR)
        assert house.environments.kept[-1] is not None
        assert after.lock_digest == before.lock_digest is not None
        upgraded = await registry.reload(LOCAL_TENANT, BLUR, upgrade=True)
        assert house.environments.kept[-1] is None
        assert upgraded.lock_digest != before.lock_digest
        await registry.reload(LOCAL_TENANT, BLUR)
        assert (house.environments.kept[-1] or before) != before
        assert (await registry.get(LOCAL_TENANT, BLUR)).lock_digest == upgraded.lock_digest


async def test_an_update_that_fails_keeps_the_lock_of_the_version_that_works(house: House) -> None:
    async with house.open() as registry:
        before = await registry.add(LOCAL_TENANT, house.pack(requirements_txt="numpy"))
        house.pack(first="raise ImportError", requirements_txt="numpy")
        with pytest.raises(Exception, match="could not be imported"):
            await registry.reload(LOCAL_TENANT, BLUR, upgrade=True)
        house.pack(requirements_txt="numpy")
        again = await registry.reload(LOCAL_TENANT, BLUR)
        assert again.lock_digest == before.lock_digest


# -- bill of materials and known vulnerabilities --------------------------------------------------------------------


async def test_a_bill_of_materials_is_valid_deterministic_and_names_every_part(house: House) -> None:
    async with house.open() as registry:
        info = await registry.add(LOCAL_TENANT, house.pack(requirements_txt="numpy"))
        bill = await registry.supply.bill_of_materials(LOCAL_TENANT, BLUR)
        assert await registry.supply.bill_of_materials(LOCAL_TENANT, BLUR) == bill
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    data = json.loads(bill)
    assert data["metadata"]["component"]["name"] == "blur"
    assert data["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": info.content_hash}]
    assert "timestamp" not in data["metadata"]
    parts = {part["purl"]: part for part in data["components"]}
    assert set(parts) == {"pkg:pypi/victim@1.0", "pkg:pypi/numpy@2.4.6"}
    assert parts["pkg:pypi/victim@1.0"]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert parts["pkg:pypi/victim@1.0"]["licenses"] == [{"license": {"id": "MIT"}}]


async def test_another_content_is_another_bill(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        before = json.loads(await registry.supply.bill_of_materials(LOCAL_TENANT, BLUR))["serialNumber"]
        house.pack(first="# nodes: Blur")
        await registry.reload(LOCAL_TENANT, BLUR)
        after = json.loads(await registry.supply.bill_of_materials(LOCAL_TENANT, BLUR))["serialNumber"]
        assert before != after


async def test_an_audit_names_the_holes_and_without_a_database_says_so(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack(requirements_txt="numpy"))
        with pytest.raises(AdvisoryDatabaseError, match="no database"):
            await registry.supply.audit(LOCAL_TENANT, BLUR)
        assert await registry.supply.counts(LOCAL_TENANT) == {}
    (house.root / "osv").mkdir()
    (house.root / "osv" / "GHSA.json").write_text(json.dumps(GHSA))
    house.advisories = AdvisoryDatabase(house.root / "osv")
    async with house.open() as registry:
        audit = await registry.supply.audit(LOCAL_TENANT, BLUR)
        assert [(each.package, each.level) for each in audit.findings] == [("victim", "critical")]
        assert await registry.supply.counts(LOCAL_TENANT) == {BLUR: {"critical": 1}}
