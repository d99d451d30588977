"""The memory of pictures made lately."""

from __future__ import annotations

from typing import Any, cast

import pytest

from api.previews import Previews
from engine import PreviewWish
from policies import LOCAL_TENANT

pytestmark = pytest.mark.anyio
PLACE = ("a.png", "", "output")


class Made:
    """Counts, and makes pictures without a byte."""

    def __init__(self, data: bytes) -> None:
        self.count = 0
        self._data = data

    async def preview(self, *_: Any) -> tuple[bytes, str]:
        self.count += 1
        return self._data, "image/webp"


@pytest.mark.parametrize("data", [b"", b"x" * 1000])
async def test_as_many_pictures_are_remembered_as_the_memory_has_room_for_however_small(data: bytes) -> None:
    made = Made(data)
    previews = Previews(cast("Any", made), max_bytes=100_000)
    wish = PreviewWish("webp", 90, "")
    for _ in range(2):
        for number in range(200):
            await previews.get(LOCAL_TENANT, (1, number, 5, 5), PLACE, wish)
    assert made.count == 400  # the oldest went before it was asked for again
    assert len(previews._made) < 100
    await previews.get(LOCAL_TENANT, (1, 199, 5, 5), PLACE, wish)
    assert made.count == 400
