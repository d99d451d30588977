"""Whatever bytes come in, by each of the doors that strangers have: read, or refused in words for people.

``seeds/`` holds, by target, inputs that mean something particular to it or that once went wrong. Each is tried in every
run, and a few damaged ones beside it. ``python -m tests.unit.fuzz`` goes on for as long as one likes and adds to them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.api.attacked import attacked_from
from tests.unit.fuzz.http_targets import http_targets
from tests.unit.fuzz.mutations import SEEDS, damaged, seeds_of
from tests.unit.fuzz.targets import TARGETS, Target

# A form that is broken off leaves starlette's file for the garbage collector, which closes it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OVER_HTTP = ("multipart", "credentials", "v2_bodies")
EVERY = (*TARGETS, *OVER_HTTP)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    with attacked_from(tmp_path_factory.mktemp("attacked")) as (at, portal):
        yield {**TARGETS, **http_targets(at, portal)}


@pytest.mark.parametrize("name", EVERY)
def test_every_kept_seed_is_read_or_refused_in_words(targets: dict[str, Target], name: str) -> None:
    for seed, raw in seeds_of(name).items():
        try:
            targets[name](raw)
        except Exception as error:
            raise AssertionError(f"the seed {name}/{seed}") from error


@pytest.mark.parametrize("name", EVERY)
def test_damaged_seeds_are_read_or_refused_in_words(targets: dict[str, Target], name: str) -> None:
    seeds = list(seeds_of(name).values())

    @given(st.sampled_from(seeds), st.integers(0, 2**32))
    def damage(raw: bytes, number: int) -> None:
        targets[name](damaged(raw, random.Random(number), seeds))

    damage()


@pytest.mark.parametrize("name", EVERY)
def test_any_bytes_are_read_or_refused_in_words(targets: dict[str, Target], name: str) -> None:
    given(st.binary(max_size=500))(lambda raw: targets[name](raw))()


def test_every_target_has_seeds_and_every_seed_a_target() -> None:
    assert {path.name for path in SEEDS.iterdir()} == set(EVERY)
    assert all(len(seeds_of(name)) >= 5 for name in EVERY)
