"""Every check of the host that an attack on the protocol, the outputs or the borders meets: with it the attack gains
nothing, and with just that check taken away it succeeds. So no test of these walls passes for another reason."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from api.archives import ArchiveError
from sandbox import SandboxError
from sandbox.egress.decision import RefusedError
from tests.security.weak_host import WEAK

LISTED = tomllib.loads((Path(__file__).parent / "ATTACKS.toml").read_text("utf-8"))["host"]

# An output that is copied meets other checks: what these take away are those of one that is adopted.
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]


async def gained(name: str, root: Path) -> str:
    """What an attack gained; nothing when it was refused in the way in which attacks are refused."""
    try:
        return await WEAK[name].attack(root)
    except (SandboxError, ArchiveError, RefusedError):
        return ""


@pytest.mark.parametrize("name", WEAK)
async def test_with_its_check_an_attack_on_the_host_gains_nothing(name: str, tmp_path: Path) -> None:
    assert await gained(name, tmp_path) == ""


@pytest.mark.parametrize("name", WEAK)
async def test_without_its_check_the_same_attack_succeeds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WEAK[name].off(monkeypatch)
    assert await gained(name, tmp_path)


def test_the_list_names_each_of_them() -> None:
    assert [entry["id"] for entry in LISTED] == list(WEAK)
    assert len(WEAK) >= 30
