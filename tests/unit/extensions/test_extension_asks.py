"""An update says what a new version asks for, and takes its place only when somebody agreed to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.extension_asks import ANYTHING, Consent, Difference, compare_files
from engine.extension_errors import UpdateAsksMoreError
from policies import LOCAL_TENANT, PolicyStore, parse_extension_name
from tests.unit.extensions.test_extensions import BLUR, House, house

__all__ = ["house"]

pytestmark = pytest.mark.anyio

ASKS = "memory: 4GiB\nnetwork: {allow: ['api.example.com:443']}\n"
CEILINGS = "ceilings: {network: ['api.example.com:443'], secrets: {KEY: 'api.example.com:443'}}\n"


class Versions:
    """Two copies of a pack, and the policies that they are held against."""

    def __init__(self, root: Path) -> None:
        self.policies = root / "policies"
        self.before, self.after = root / "before", root / "after"
        for directory in (self.policies, self.before, self.after):
            directory.mkdir()
            (directory / "__init__.py").touch()
        (self.policies / "__init__.py").unlink()

    def found(self) -> list[str]:
        store = PolicyStore(self.policies)
        name = parse_extension_name("pack")
        return [str(each) for each in compare_files(store, name, LOCAL_TENANT, self.before, self.after)]


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    made = Versions(tmp_path)
    (made.policies / "default.yaml").write_text(CEILINGS)
    return made


def test_versions_that_ask_for_the_same_have_no_difference(versions: Versions) -> None:
    for copy in (versions.before, versions.after):
        (copy / "ringfence.yaml").write_text(ASKS)
        (copy / "requirements.txt").write_text("tqdm>=4\n")
    assert versions.found() == []


def test_a_first_suggestion_is_shown_with_what_is_granted_already(versions: Versions) -> None:
    (versions.policies / "pack.yaml").write_text("memory: 8GiB\nenvironment: {PASSWORD: hunter2}\n")
    (versions.after / "ringfence.yaml").write_text(ASKS)
    assert versions.found() == [
        "asks for more: policy suggestion: memory: 4GiB; today's policy grants it",
        "asks for more: policy suggestion: network: api.example.com:443",
    ]
    assert "memory: 8GiB" in (versions.policies / "pack.yaml").read_text(), "nothing is adopted"


def test_a_changed_suggestion_is_compared_with_the_last_one(versions: Versions) -> None:
    (versions.before / "ringfence.yaml").write_text(ASKS)
    (versions.after / "ringfence.yaml").write_text(
        "memory: 1GiB\nnetwork: {allow: ['api.example.com:443']}\n"
        "secrets: [{name: KEY, host: 'api.example.com:443', header: Authorization}]\nroutes: true\n"
    )
    found = versions.found()
    assert "policy suggestion: memory: 4GiB -> 1GiB" in found
    assert "asks for more: policy suggestion: routes: false -> true" in found
    assert any(each.startswith("asks for more: policy suggestion: secrets: {name: KEY") for each in found)


@pytest.mark.parametrize(
    "text",
    [
        "memory: 900GiB\n",
        "network: {allow: ['evil.example.net:443']}\n",
        "memory: [\n",
        "\x00",
        "x" * 100_000,
    ],
)
def test_a_suggestion_that_could_not_be_adopted_counts_as_more(versions: Versions, text: str) -> None:
    (versions.after / "ringfence.yaml").write_text(text)
    (only,) = versions.found()
    assert only.startswith("asks for more: policy suggestion: could not be adopted here: ")


def test_a_suggestion_that_leads_out_of_the_pack_is_not_read(versions: Versions, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.yaml").write_text(ASKS)
    (versions.after / "ringfence.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert versions.found() == []


def test_new_requirements_and_manifest_wishes_are_more_and_what_is_gone_is_not(versions: Versions) -> None:
    (versions.before / "requirements.txt").write_text("tqdm>=4\neinops\n")
    (versions.after / "requirements.txt").write_text("tqdm>=5\nrequests\n")
    (versions.after / "pyisolate.yaml").write_text("isolated: true\nshare_torch: true\n")
    (versions.after / "install.py").touch()
    found = versions.found()
    assert "asks for more: requirement: requests (new)" in found
    assert "requirement: tqdm>=4 -> tqdm>=5" in found
    assert "requirement: einops (gone)" in found
    assert any("share_torch" in each and each.startswith("asks for more: manifest") for each in found)
    assert "install.py: new; it is not run here" in found


def test_a_yes_is_to_one_list_of_one_content() -> None:
    more = [Difference("requirement", "x (new)", is_more=True)]
    with pytest.raises(UpdateAsksMoreError) as refused:
        Consent().check(BLUR, "a" * 64, more)
    key = refused.value.key
    Consent(frozenset({key})).check(BLUR, "a" * 64, more)
    Consent(frozenset({ANYTHING})).check(BLUR, "b" * 64, more)
    Consent().check(BLUR, "a" * 64, [Difference("requirement", "x (gone)", is_more=False)])
    for content, wishes in (("b" * 64, more), ("a" * 64, [*more, Difference("node", "y", is_more=True)])):
        with pytest.raises(UpdateAsksMoreError):
            Consent(frozenset({key})).check(BLUR, content, wishes)


# -- the whole way ---------------------------------------------------------------------------------------------------


async def test_an_update_that_asks_for_no_more_takes_its_place_without_a_question(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        house.pack(first="# nodes: Blur Glow")
        info = await registry.reload(LOCAL_TENANT, BLUR, house.lines.append, consent=Consent())
        assert info.node_count == 2
        assert "node: Glow (new)" in house.lines


async def test_of_a_version_whose_files_ask_for_more_nothing_is_built_or_run(house: House) -> None:
    async with house.open() as registry:
        before = await registry.add(LOCAL_TENANT, house.pack())
        house.pack(first="# nodes: Blur Glow", requirements_txt="tqdm")
        built = len(house.environments.kept)
        with pytest.raises(UpdateAsksMoreError, match=r"requirement: tqdm \(new\)") as refused:
            await registry.reload(LOCAL_TENANT, BLUR, consent=Consent())
        assert len(house.environments.kept) == built
        assert house.sandboxes.started == ["blur"]
        info = await registry.get(LOCAL_TENANT, BLUR)
        assert (info.state, info.content_hash, info.error) == ("ready", before.content_hash, None)
        assert house.copies() == [before.content_hash]
        assert "--yes" in refused.value.hint

        consent = Consent(frozenset({refused.value.key}))
        assert (await registry.reload(LOCAL_TENANT, BLUR, consent=consent)).node_count == 2


async def test_a_version_that_registers_more_is_ended_and_the_old_one_goes_on(house: House) -> None:
    async with house.open() as registry:
        before = await registry.add(LOCAL_TENANT, house.pack())
        house.pack(first="# nodes: Blur Glow")
        house.sandboxes.serves["blur"] = {"routes": (("GET", "/steal"),), "web_directory": "js"}
        with pytest.raises(UpdateAsksMoreError) as refused:
            await registry.reload(LOCAL_TENANT, BLUR, consent=Consent())
        assert [each.partition(" (")[0] for each in refused.value.more] == [
            "route: GET /steal",
            "web files: js",
        ]
        assert "not served, since its policy says 'routes: false'" in refused.value.more[0]
        assert house.sandboxes.stopped == ["blur-1"]
        assert house.copies() == [before.content_hash]
        assert "Glow" not in await registry.node_types(LOCAL_TENANT)
        info = await registry.get(LOCAL_TENANT, BLUR)
        assert (info.state, info.node_count, info.error) == ("ready", 2, None)
    async with house.open() as registry:  # what is on disk is of the old version, too
        assert "Glow" not in await registry.node_types(LOCAL_TENANT)
        consent = Consent(frozenset({refused.value.key}))
        assert (await registry.reload(LOCAL_TENANT, BLUR, consent=consent)).node_count == 2


async def test_a_class_that_another_extension_offers_is_more(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        await registry.add(LOCAL_TENANT, house.pack("other", first="# nodes: Glow"))
        house.pack(first="# nodes: Blur Glow")
        with pytest.raises(UpdateAsksMoreError, match="extension 'other' offers one of that name"):
            await registry.reload(LOCAL_TENANT, BLUR, consent=Consent())


async def test_a_plain_reload_says_it_and_asks_nobody(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        house.pack(first="# nodes: Blur", requirements_txt="tqdm")
        await registry.reload(LOCAL_TENANT, BLUR, house.lines.append)
        assert "asks for more: requirement: tqdm (new)" in house.lines
