"""Which GPUs ``/system_stats`` lists, on a stand-in for the driver's library."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from api import gpus
from api.settings import Settings
from policies import LOCAL_TENANT, PolicyStore

GIB = 2**30
CARDS = [
    ("GPU-aaaaaaaa-0000-1111-2222-aaaaaaaaaaaa", "NVIDIA One", 80, 70),
    ("GPU-bbbbbbbb-0000-1111-2222-bbbbbbbbbbbb", "NVIDIA Two", 40, 1),
    ("GPU-cccccccc-0000-1111-2222-cccccccccccc", "NVIDIA\x1b[2J Three", 8, 8),
]


class Driver:
    """Answers as libnvidia-ml does, through the pointers it is given."""

    def __init__(self, *, init: int = 0, lost: int | None = None) -> None:
        self.init = init
        self.lost = lost
        self.open = 0

    def nvmlInit_v2(self) -> int:
        self.open += self.init == 0
        return self.init

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count.contents.value = len(CARDS)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:
        handle.contents.value = index.value + 1
        return 15 if index.value == self.lost else 0

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: Any) -> int:
        _, _, memory.contents.total, memory.contents.free = (
            part * GIB if isinstance(part, int) else part for part in self._card(handle)
        )
        return 0

    def nvmlDeviceGetName(self, handle: ctypes.c_void_p, text: Any, size: ctypes.c_uint) -> int:
        text.value = self._card(handle)[1].encode()
        return 0

    def nvmlDeviceGetUUID(self, handle: ctypes.c_void_p, text: Any, size: ctypes.c_uint) -> int:
        text.value = self._card(handle)[0].encode()
        return 0

    @staticmethod
    def _card(handle: ctypes.c_void_p) -> Any:
        return CARDS[(handle.value or 0) - 1]


def store(directory: Path, **given: str) -> PolicyStore:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "default.yaml").write_text("ceilings:\n  gpus: 3\n")
    for extension, ids in given.items():
        (directory / f"{extension}.yaml").write_text(f"gpus: [{ids}]\n")
    return PolicyStore(directory)


def indices(policies: PolicyStore, driver: Any) -> list[int]:
    return [gpu.index for gpu in gpus.gpus_of(policies, LOCAL_TENANT, driver)]


def test_only_cards_that_a_policy_gives_are_listed(tmp_path: Path) -> None:
    driver = Driver()
    assert indices(store(tmp_path / "none"), driver) == []
    assert indices(store(tmp_path / "two", blur='"0"', sharpen=CARDS[2][0]), driver) == [0, 2]
    assert driver.open == 0


def test_a_card_that_does_not_answer_leaves_the_others(tmp_path: Path) -> None:
    assert indices(store(tmp_path, blur='"0", "1"'), Driver(lost=0)) == [1]


def test_without_a_driver_there_are_no_cards(tmp_path: Path) -> None:
    assert gpus.read_gpus(None) == []
    assert gpus.read_gpus(Driver(init=9)) == []


def test_figures_and_names_are_the_drivers_and_harmless() -> None:
    one, _, three = gpus.read_gpus(Driver())
    assert (one.uuid, one.name, one.total, one.free) == (CARDS[0][0], "NVIDIA One", 80 * GIB, 70 * GIB)
    assert "\x1b" not in three.name


@pytest.mark.anyio
async def test_system_stats_lists_the_cards_first_and_the_cpu_alone_where_there_are_none(
    client: httpx2.AsyncClient, app: FastAPI, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cpu,) = (await client.get("/system_stats")).json()["devices"]
    assert (cpu["type"], cpu["index"]) == ("cpu", None)
    monkeypatch.setattr(gpus, "_library", Driver)
    app.state.services.policies = store(settings.policies_path, blur='"1"')
    (card,) = (await client.get("/system_stats")).json()["devices"]
    assert card == {
        "name": "cuda:1 NVIDIA Two", "type": "cuda", "index": 1, "vram_total": 40 * GIB, "vram_free": GIB,
        "torch_vram_total": 0, "torch_vram_free": 0,
    }  # fmt: skip
