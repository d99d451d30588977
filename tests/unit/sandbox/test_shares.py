"""Which waiting sandbox gets a place, and which idle one gives way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from policies import SandboxId, TenantId
from sandbox.shares import Place, Share, decide

A, B = TenantId("a"), TenantId("b")
GIB = 2**30


def place(name: str, tenant: TenantId, *, idle: bool = False, used_at: float = 0, memory: int = GIB) -> Place:
    return Place(SandboxId(name), tenant, memory, idle, used_at)


def free(_: TenantId) -> Share:
    return Share()


def test_a_tenant_below_its_share_goes_before_a_flood_that_came_first() -> None:
    held = [place(f"a{n}", A) for n in range(3)]
    flood = [place(f"w{n}", A) for n in range(10)]
    ours = place("b", B)
    assert decide(ours, held, [*flood, ours], 4, free).may_enter
    assert not decide(flood[0], held, [*flood, ours], 4, free).may_enter


def test_the_idle_sandboxes_of_whoever_has_most_give_way() -> None:
    held = [place("a1", A, idle=True, used_at=5), place("a2", A, idle=True, used_at=3), place("b1", B)]
    wanted = place("b2", B)
    assert decide(wanted, held, [wanted], 3, free).ends == "a2"


def test_a_flood_does_not_push_out_the_only_warm_sandbox_of_another() -> None:
    held = [place("a1", A), place("a2", A), place("b1", B, idle=True)]
    wanted = place("a3", A)
    decision = decide(wanted, held, [wanted], 3, free)
    assert (decision.may_enter, decision.ends) == (False, None)


def test_a_tenant_over_its_quota_ends_its_own_idle_one_or_waits_and_the_quota_is_named() -> None:
    def share(_: TenantId) -> Share:
        return Share(sandboxes=1, sandboxes_name="default.yaml:3")

    wanted = place("a2", A)
    assert decide(wanted, [place("a1", A, idle=True)], [wanted], 9, share).ends == "a1"
    busy = decide(wanted, [place("a1", A)], [wanted], 9, share)
    assert busy.ends is None
    assert "quota 'sandboxes'" in busy.because
    assert "default.yaml:3" in busy.because


def test_memory_caps_together_are_a_quota() -> None:
    def share(_: TenantId) -> Share:
        return Share(memory=3 * GIB)

    wanted = place("a2", A, memory=2 * GIB)
    assert (
        "quota 'memory' is 3 GiB"
        in decide(wanted, [place("a1", A, memory=2 * GIB)], [wanted], 9, share).because
    )
    assert decide(wanted, [place("a1", A)], [wanted], 9, share).may_enter
    alone = decide(place("a3", A, memory=4 * GIB), [], [place("a3", A, memory=4 * GIB)], 9, share)
    assert alone.is_final


def test_whoever_waits_for_its_own_quota_holds_up_no_other() -> None:
    def share(tenant: TenantId) -> Share:
        return Share(sandboxes=1) if tenant == A else Share()

    stuck, ours = place("a2", A), place("b1", B)
    assert decide(ours, [place("a1", A)], [stuck, ours], 4, share).may_enter


@settings(deadline=None)
@given(
    held=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=8),
    waiting=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    weights=st.lists(st.integers(1, 5), min_size=4, max_size=4),
)
def test_while_there_is_room_exactly_one_of_those_that_wait_may_enter(
    held: list[tuple[int, bool]], waiting: list[int], weights: list[int]
) -> None:
    names = [TenantId(f"t{n}") for n in range(4)]

    def share(tenant: TenantId) -> Share:
        return Share(weight=weights[names.index(tenant)])

    there = [place(f"h{n}", names[tenant], idle=idle) for n, (tenant, idle) in enumerate(held)]
    queue = [place(f"w{n}", names[tenant]) for n, tenant in enumerate(waiting)]
    entering = [each for each in queue if decide(each, there, queue, 9, share).may_enter]
    assert len(entering) == 1
    full = [decide(each, there, queue, len(there) or 1, share) for each in queue]
    if there:
        assert not any(decision.may_enter for decision in full)
