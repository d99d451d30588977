"""For which extensions a spare is kept, and when none is: the plan alone, without a sandbox."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from policies import ExtensionName, TenantId
from sandbox.spares import BACK_OFF_S, HOLD_S, End, Memory, Owner, SparePlan, Start, first_to_go, size_for

GIB = 2**30
PLENTY = Memory(16 * GIB, 12 * GIB)
A: Owner = (TenantId("local"), "extension:a")
B: Owner = (TenantId("local"), "extension:b")


def plan(size: int = 1, *used: Owner, at: float = 0.0) -> SparePlan:
    made = SparePlan(size)
    for owner in used:
        made.used(owner, ExtensionName(owner[1].partition(":")[2]), at)
    return made


def why(of: SparePlan, owner: Owner) -> str:
    return of.wishes[owner].why_not


def test_an_extension_that_was_used_gets_a_spare_once_its_first_calls_are_through() -> None:
    made = plan(1, A)
    assert made.next(1.0, {}, PLENTY, places=9) is None
    assert made.pause(1.0, {}, places=9) == 4.0
    assert made.next(5.0, {}, PLENTY, places=9) == Start(A, made.wishes[A])


def test_without_a_use_there_is_no_spare() -> None:
    assert plan(4).next(100.0, {}, PLENTY, places=9) is None


def test_the_extension_used_last_comes_first() -> None:
    made = plan(2, A, at=0.0)
    made.used(B, ExtensionName("b"), 1.0)
    step = made.next(10.0, {}, PLENTY, places=9)
    assert isinstance(step, Start)
    assert step.owner == B


def test_extensions_that_take_turns_do_not_end_each_others_spares() -> None:
    made = plan(1, A, B, at=0.0)
    for turn in range(100):
        made.seen_busy((A, B)[turn % 2], float(turn))
        assert made.next(10.0 + turn, {A: 6.0}, PLENTY, places=9) is None
    assert "RINGFENCE_POOL" in why(made, B)


def test_a_spare_that_nobody_used_for_long_gives_way_to_one_that_is_wanted() -> None:
    made = plan(1, A, at=0.0)
    made.used(B, ExtensionName("b"), HOLD_S + 1)
    step = made.next(HOLD_S + 10, {A: 6.0}, PLENTY, places=9)
    assert step == End(A, "another extension has been used since")


def of(tenant: str, name: str) -> Owner:
    return (TenantId(tenant), f"extension:{name}")


def settled(
    made: SparePlan, held: dict[Owner, float], now: float, memory: Memory = PLENTY
) -> dict[Owner, float]:
    """The spares there are when the plan has come to rest."""
    for _ in range(50):
        step = made.next(now, held, memory, places=9)
        if step is None:
            return held
        if isinstance(step, Start):
            held[step.owner] = now
        else:
            del held[step.owner]
    raise AssertionError("it starts and ends for ever")


def shares(held: dict[Owner, float]) -> dict[str, int]:
    return dict(Counter(tenant for tenant, _ in held))


def test_a_tenant_alone_may_have_all_spares_and_gives_up_what_another_is_short_of() -> None:
    made = plan(4, *(of("greedy", str(number)) for number in range(9)), at=0.0)
    held = settled(made, {}, 10.0)
    assert shares(held) == {"greedy": 4}
    made.used(of("late", "x"), ExtensionName("x"), 10.0)
    assert shares(settled(made, held, 16.0)) == {"greedy": 3, "late": 1}
    for number in range(9):
        made.used(of("late", str(number)), ExtensionName("x"), 17.0)
        made.used(of("greedy", str(number)), ExtensionName("x"), 18.0)
    assert shares(settled(made, held, 30.0)) == {"greedy": 2, "late": 2}


def test_a_tenant_that_uses_nothing_keeps_no_part_free_for_itself() -> None:
    made = plan(2, of("gone", "a"), at=0.0)
    for name in ("x", "y"):
        made.used(of("here", name), ExtensionName("x"), HOLD_S + 100)
    held = settled(made, {of("here", "x"): 1.0, of("here", "y"): 2.0}, HOLD_S + 200)
    assert shares(held) == {"here": 2}


def test_a_tenant_whose_spares_never_come_to_anything_does_not_hold_up_the_others() -> None:
    made, now, served = plan(4, B, at=0.0), 10.0, []
    for _ in range(4):
        made.used(of("busy", "x"), ExtensionName("x"), now)  # always the one that was used last
        now += 60.0
        step = made.next(now, {}, PLENTY, places=9)
        assert isinstance(step, Start)
        served.append(step.owner[0])
    assert served == ["busy", "local", "busy", "local"]


def test_a_spare_is_not_ended_for_one_that_would_not_fit_into_its_memory() -> None:
    made = plan(4, *(of("greedy", str(number)) for number in range(3)), of("late", "x"), at=0.0)
    made.wishes[of("late", "x")].slow = ("torch",)
    held = {of("greedy", str(number)): 1.0 for number in range(3)}
    memory = Memory(4 * GIB, 512 * 2**20 + 20 * 2**20)
    assert settled(made, dict(held), 10.0, memory) == held
    assert "of memory left" in why(made, of("late", "x"))


def test_of_two_tenants_the_one_with_more_spares_makes_way_first() -> None:
    held = {of("one", "a"): 1.0, of("two", "a"): 3.0, of("two", "b"): 2.0}
    assert first_to_go(held) == of("two", "b")


def test_a_tenant_that_uses_ever_new_extensions_makes_no_other_be_forgotten() -> None:
    made = plan(1, B, at=0.0)
    for number in range(1500):
        made.used(of("greedy", str(number)), ExtensionName("e"), 1.0)
    assert (B in made.wishes, len(made.wishes)) == (True, 1024)


def test_nothing_is_started_where_memory_is_short_and_it_says_so() -> None:
    made = plan(1, A)
    assert made.next(10.0, {}, Memory(16 * GIB, GIB), places=9) is None
    assert "1 GiB of memory left" in why(made, A)


def test_torch_is_counted_where_it_will_be_imported() -> None:
    memory = Memory(4 * GIB, 512 * 2**20 + 100 * 2**20)
    made = plan(1, A)
    assert isinstance(made.next(10.0, {}, memory, places=9), Start)
    made.wishes[A].slow = ("numpy", "torch")
    assert made.next(10.0, {}, memory, places=9) is None


def test_the_oldest_spare_ends_when_the_machine_runs_out_of_memory() -> None:
    step = plan(2, A, B).next(10.0, {A: 2.0, B: 1.0}, Memory(16 * GIB, GIB // 2), places=9)
    assert isinstance(step, End)
    assert step.owner == B


def test_nothing_is_started_while_there_is_no_place() -> None:
    made = plan(1, A)
    assert made.next(10.0, {}, PLENTY, places=0) is None
    assert "RINGFENCE_MAX_SANDBOXES" in why(made, A)


def test_a_spare_that_keeps_dying_is_tried_less_and_less_often() -> None:
    made, now = plan(1, A), 10.0
    for wait_s in (*BACK_OFF_S, BACK_OFF_S[-1]):
        made.failed(A, "it died", now)
        assert made.next(now + wait_s - 1, {}, PLENTY, places=9) is None
        assert why(made, A) == "it died"
        now += wait_s
        assert isinstance(made.next(now, {}, PLENTY, places=9), Start)
    made.served(A)
    made.failed(A, "it died", now)
    assert isinstance(made.next(now + BACK_OFF_S[0], {}, PLENTY, places=9), Start)


def test_what_is_remembered_is_bounded() -> None:
    made = SparePlan(1)
    for number in range(1500):
        made.used((TenantId("local"), f"extension:e{number}"), ExtensionName("e"), float(number))
    assert len(made.wishes) == 1024


def test_small_machines_keep_none_by_default() -> None:
    sizes = [size_for(Memory(gib * GIB, 0)) for gib in (1, 4, 8, 16, 24, 256)]
    assert sizes == [0, 0, 1, 3, 4, 4]


def test_a_spare_that_was_ended_for_another_tenants_is_not_the_next_to_be_started() -> None:
    made, held, now = SparePlan(2), dict[Owner, float](), 0.0
    for owner, at in ((of("b", "x"), 0.0), (of("a", "x"), 10.0), (of("a", "y"), HOLD_S + 1)):
        now = at + made.settle_s
        made.used(owner, ExtensionName("e"), at)
        steps = []
        while step := made.next(now, held, PLENTY, places=9):
            steps.append(step)
            assert len(steps) < 9, steps
            if isinstance(step, Start):
                held[step.owner] = now
            else:
                del held[step.owner]
    assert set(held) == {of("a", "x"), of("a", "y")}  # b has used nothing for longer than it is held


@given(
    size=st.integers(0, 4),
    uses=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 7), st.floats(0, 60)), max_size=40),
    free=st.integers(0, 16),
)
def test_there_are_never_more_than_the_pool_holds_and_it_comes_to_rest(
    size: int, uses: list[tuple[str, int, float]], free: int
) -> None:
    made, held, now = SparePlan(size), dict[Owner, float](), 0.0
    memory = Memory(16 * GIB, free * GIB)
    for tenant, number, pause in uses:
        now += pause
        made.used(of(tenant, f"e{number}"), ExtensionName("e"), now)
        for _ in range(20):
            step = made.next(now, held, memory, places=9)
            if step is None:
                break
            if isinstance(step, Start):
                held[step.owner] = now
            else:
                del held[step.owner]
            assert len(held) <= size
        else:
            raise AssertionError("it starts and ends for ever")
        if memory.available > 2 * memory.reserve:
            parts = Counter(tenant for tenant, _ in held)
            for each, wish in made.wishes.items():
                wants = each not in held and wish.not_before <= now <= wish.last + HOLD_S
                assert not wants or parts[each[0]] + 1 >= max(parts.values(), default=0)
