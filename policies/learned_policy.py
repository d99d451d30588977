"""A learned policy, held against the policies on disk before anybody sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from policies.difference import asks_more
from policies.errors import PolicyError
from policies.learned_text import Item, Line, render
from policies.learning import learn
from policies.model import EffectivePolicy
from policies.names import ExtensionName, TenantId
from policies.observed import Observed
from policies.store import PolicyStore


@dataclass(frozen=True, slots=True)
class LearnedPolicy:
    """What was learned of one extension, valid here."""

    text: str
    """The file: values with what was seen, wishes as comments."""
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    effective: EffectivePolicy
    """What would hold with it."""


def learn_policy(
    store: PolicyStore, extension: ExtensionName, tenant: TenantId, seen: Observed, now: EffectivePolicy
) -> LearnedPolicy:
    """The smallest policy that a run needed, checked: valid, and no more than ``now``. Blocking: it reads files.

    Each wish says whether the ceilings of the tenant would let it be granted at all.

    Raises:
        PolicyError: a policy on disk is wrong, or changed meanwhile.
    """
    learned = learn(seen, now)
    file = f"{extension}.yaml"
    lines = tuple(_judged(store, extension, tenant, learned.lines))
    text = render(extension, lines, learned.notes)
    effective = store.check_text(text, file, tenant)
    more = asks_more(now, effective)
    if more:
        raise PolicyError(
            f"what was learned of '{extension}' would allow more than today's policy does: {more[0]}",
            hint="its policy or default.yaml changed while it was watched: learn again",
            file=file,
        )
    return LearnedPolicy(text, lines, tuple(learned.notes), effective)


def _judged(
    store: PolicyStore, extension: ExtensionName, tenant: TenantId, lines: Sequence[Line]
) -> Iterator[Line]:
    live = [line for line in lines if not line.is_wish]
    for line in lines:
        items = []
        for item in line.items:
            refused = ""
            if line.is_wish or item.is_wish:
                refused = _refusal(store, extension, tenant, live, line, item)
            items.append(replace(item, said=f"{item.said}; {refused}") if refused else item)
        yield replace(line, items=tuple(items))


def _refusal(
    store: PolicyStore,
    extension: ExtensionName,
    tenant: TenantId,
    live: Sequence[Line],
    line: Line,
    item: Item,
) -> str:
    """Why a wish could not be granted by the extension's file alone; empty when it could."""
    granted = [] if line.is_wish else [each for each in line.items if not each.is_wish]
    wanted = Line(line.key, (*granted, replace(item, is_wish=False)), within=line.within)
    others = [each for each in live if each.key != line.key]
    try:
        store.check_text(render(extension, [*others, wanted]), f"{extension}.yaml", tenant)
    except PolicyError as error:
        return f"could not be granted today: {error.message}"
    return ""
