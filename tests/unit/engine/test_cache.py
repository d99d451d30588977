"""Cache modes, budget, holders (execution-semantics §4.4)."""

from __future__ import annotations

import pytest

from engine.cache import CacheMode, Result, ResultCache
from engine.memory import GIB, Memory
from engine.signature import CacheKey
from engine.testing import FakeStore
from engine.values import Ledger
from policies import SandboxId
from sandbox.calls import Value


class Shelf:
    def __init__(self, mode="classic", budget=10_000, available=0, total=100 * GIB):
        self.memory = Memory(available, total)
        self.store = FakeStore()
        self.ledger = Ledger(self.store)
        self.dead = set()
        self.cache = ResultCache(
            CacheMode.parse(mode),
            budget,
            lambda result: not (result.sandboxes & self.dead),
            lambda: self.memory,
        )

    def put(self, name, nbytes=10, key=None, handles=()):
        value = Value({}, (self.store.add(name),), handles, nbytes)
        self.ledger.adopt(value)
        result = Result(self.ledger, ((value,),), None)
        self.cache.put(key or k(name), result)
        result.drop()

    def begin(self, run, *names, roots=()):
        self.cache.begin(run, [k(name) for name in names], roots)

    def has(self, *names):
        return [self.cache.get(k(name)) is not None for name in names]

    @property
    def alive(self):
        return {self.store.data[name] for name in self.store.references}


def k(name):
    return CacheKey(name.encode())


@pytest.mark.parametrize(
    "text", ["", "LRU", "lru", "lru:0", "lru:-1", "none:1", "classic:2", "ram:0", "ram:x"]
)
def test_other_modes_are_refused(text):
    with pytest.raises(ValueError, match="is not one of"):
        CacheMode.parse(text)


def test_classic_drops_what_the_next_prompt_does_not_name():
    shelf = Shelf()
    shelf.begin("1", "a", "b")
    shelf.put("a")
    shelf.put("b")
    shelf.cache.end("1")
    assert shelf.has("a", "b") == [True, True]
    shelf.begin("2", "b", "c")
    assert shelf.has("a", "b") == [False, True]
    assert shelf.alive == {"b"}


def test_classic_keeps_what_any_running_prompt_names():
    shelf = Shelf()
    shelf.begin("1", "a")
    shelf.put("a")
    shelf.begin("2", "b")
    assert shelf.has("a") == [True]


def test_classic_drops_a_sub_cache_with_its_root():
    shelf = Shelf()
    child = CacheKey(b"c", b"scope", ("1", "Loop"))
    shelf.cache.begin("1", [], [("1", "Loop")])
    shelf.put("child", key=child)
    shelf.cache.end("1")
    shelf.cache.begin("2", [], [("1", "Loop")])
    shelf.cache.end("2")
    assert shelf.cache.get(child) is not None
    shelf.cache.begin("3", [], [("1", "Other")])
    assert shelf.cache.get(child) is None
    assert not shelf.alive


def test_classic_keeps_only_the_new_children_of_a_node_that_expands_anew():
    shelf = Shelf()
    old, kept = CacheKey(b"old", b"s", ("1", "L")), CacheKey(b"kept", b"s", ("1", "L"))
    shelf.put("old", key=old)
    shelf.put("kept", key=kept)
    shelf.put("elsewhere", key=CacheKey(b"old", b"t", ("1", "L")))
    shelf.cache.keep_in_scope(b"s", {kept})
    assert shelf.alive == {"kept", "elsewhere"}


def test_lru_drops_the_oldest_generations():
    shelf = Shelf("lru:2")
    for run, name in enumerate("abc"):
        shelf.begin(str(run), name)
        shelf.put(name)
    shelf.begin("4", "a")
    assert shelf.has("a", "b", "c") == [True, False, True]


def test_lru_never_drops_what_the_prompt_that_begins_names():
    shelf = Shelf("lru:1")
    shelf.begin("1", "a", "b", "c")
    for name in "abc":
        shelf.put(name)
    shelf.begin("2", "a", "b", "c")
    assert shelf.has("a", "b", "c") == [True, True, True]


def test_none_keeps_nothing():
    shelf = Shelf("none")
    shelf.begin("1", "a")
    shelf.put("a")
    assert shelf.has("a") == [False]
    assert not shelf.alive


def test_ram_drops_results_of_older_prompts_when_memory_runs_short():
    shelf = Shelf("ram", available=96 * GIB)
    shelf.begin("1", "a", "b")
    shelf.put("a")
    shelf.put("b")
    shelf.cache.end("1")
    shelf.begin("2", "b", "c")
    shelf.put("c")
    assert shelf.has("a", "b", "c") == [True, True, True]
    shelf.cache.end("2")
    shelf.begin("3", "b", "d")
    shelf.memory = Memory(50 * GIB, 100 * GIB)
    shelf.put("d")
    assert shelf.alive == {"b", "d"}, "b is named by the running prompt"


def test_ram_drops_the_largest_of_equally_old_results_first():
    shelf = Shelf("ram", budget=100 * GIB, available=96 * GIB)
    shelf.begin("1")
    shelf.put("small", GIB)
    shelf.put("large", 3 * GIB)
    shelf.cache.end("1")
    shelf.begin("2")
    shelf.memory = Memory(94 * GIB, 100 * GIB)
    shelf.put("new")
    assert shelf.alive == {"small", "new"}


def test_ram_drops_results_of_this_prompt_only_when_memory_is_nearly_gone():
    shelf = Shelf("ram:8", budget=100 * GIB, available=9 * GIB)
    shelf.begin("1", "a")
    shelf.put("a", GIB)
    assert shelf.alive == {"a"}
    shelf.memory = Memory(7 * GIB, 100 * GIB)
    shelf.put("b", GIB)
    assert shelf.alive == {"b"}, "the one that was touched longest ago goes, and is enough"


def test_the_byte_budget_drops_what_was_not_touched_longest():
    shelf = Shelf(budget=30)
    for name in "abc":
        shelf.put(name)
    assert shelf.has("a") == [True]
    shelf.put("d")
    assert shelf.alive == {"a", "c", "d"}
    assert shelf.cache.nbytes == 30


def test_a_result_over_the_budget_is_not_kept():
    shelf = Shelf(budget=30)
    shelf.put("a")
    shelf.put("huge", nbytes=31)
    assert shelf.alive == {"a"}


def test_evicting_takes_nothing_from_a_holder():
    shelf = Shelf()
    shelf.put("a")
    held = shelf.cache.get(k("a")).hold()
    shelf.cache.clear()
    assert shelf.alive == {"a"}
    held.drop()
    assert not shelf.alive
    assert shelf.cache.nbytes == 0


def test_putting_again_replaces():
    shelf = Shelf()
    shelf.put("a")
    shelf.put("a")
    assert len(shelf.cache) == 1
    assert shelf.cache.nbytes == 10


def test_a_result_with_an_object_of_a_dead_sandbox_is_dropped():
    shelf = Shelf()
    shelf.put("a", handles=((SandboxId("s1"), 1),))
    assert shelf.has("a") == [True]
    shelf.dead.add("s1")
    assert shelf.has("a") == [False]
    assert not shelf.alive


def test_shrinking_drops_the_least_recently_used_until_enough_is_given_back():
    shelf = Shelf("lru:9")
    for name in ("a", "b", "c"):
        shelf.put(name, nbytes=10)
    assert shelf.has("a") == [True]  # touched
    shelf.cache.shrink(11)
    assert shelf.alive == {"a"}
    shelf.cache.shrink(1_000)
    assert shelf.alive == set()


def test_what_the_trees_take_of_our_own_memory_counts_for_the_budget():
    shelf = Shelf(budget=10_000)
    shelf.begin("1", "plain", "ui")
    for name, result in (
        ("plain", Result(shelf.ledger, ((Value([1] * 200, weight=20_001),),), None)),
        ("ui", Result(shelf.ledger, (), {"text": ["x" * 20_000]})),
    ):
        assert result.nbytes > 20_000 > result.stored
        shelf.cache.put(k(name), result)
        result.drop()
    assert shelf.has("plain", "ui") == [False, False]


def test_shrinking_goes_on_until_the_store_has_its_bytes_back():
    shelf = Shelf(budget=10_000)
    shelf.begin("1", "plain", "a", "b")
    plain = Result(shelf.ledger, ((Value("x", weight=5_000),),), None)
    shelf.cache.put(k("plain"), plain)
    plain.drop()
    shelf.put("a", 100)
    shelf.put("b", 100)
    shelf.cache.shrink(100)
    assert shelf.has("plain", "a", "b") == [False, False, True]
