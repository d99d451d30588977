"""What a new version of a pack asks for beyond the one that is there, for whoever has to say yes to it.

Two looks: at its files before anything of it is built or run (its policy suggestion, its requirements, its isolation
manifest), and at what it registered once it was loaded in its sandbox (nodes, routes, a web directory). Nothing here
grants anything: a suggestion is read, compared and shown, and only an operator adopts one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.extension_errors import UpdateAsksMoreError
from engine.extension_shelf import Entry
from policies import (
    Change,
    EffectivePolicy,
    ExtensionName,
    PolicyError,
    PolicyStore,
    RingfenceError,
    TenantId,
    asks_more,
    compare,
    safe_text,
)
from sandbox import Declared, read_declared

SUGGESTION: Final = "ringfence.yaml"
"""The policy that a pack would like to have, in its own directory."""
ANYTHING: Final = "anything"
"""Consent to whatever a new version asks for."""
_LARGEST: Final = 64 * 1024
_SHOWN: Final = 200
_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two versions differ."""

    what: str
    """``policy suggestion``, ``requirement``, ``manifest``, ``node``, ``route``, ``prompt handler``, ``web files``."""
    text: str
    is_more: bool
    """The new version asks for more here."""

    def __str__(self) -> str:
        return f"{'asks for more: ' if self.is_more else ''}{self.what}: {self.text}"


@dataclass(frozen=True, slots=True)
class Consent:
    """To which lists of wishes whoever updates has said yes, by their keys; without any, to none."""

    keys: frozenset[str] = frozenset()

    def check(self, name: ExtensionName, content_hash: str, differences: Sequence[Difference]) -> None:
        """Raises: UpdateAsksMoreError unless what the new version asks for beyond the old one was agreed to."""
        more = tuple(f"{each.what}: {each.text}" for each in differences if each.is_more)
        if not more:
            return
        key = consent_key(content_hash, more)
        if ANYTHING in self.keys or key in self.keys:
            return
        raise UpdateAsksMoreError(name, more, key)


def consent_key(content_hash: str, more: Iterable[str]) -> str:
    """Names one list of wishes of one content, so that a yes is to what was shown and to nothing else."""
    return hashlib.sha256("\n".join((content_hash, *more)).encode()).hexdigest()[:32]


# -- its files -------------------------------------------------------------------------------------------------------


def compare_files(
    store: PolicyStore, name: ExtensionName, tenant: TenantId, before: Path, after: Path
) -> tuple[Difference, ...]:
    """What the files of two copies ask for. Blocking; both are ours, and nothing in them is run.

    Raises: DependencyRefusedError when the new one declares what is refused anyway; PolicyError when a file of the
    operator's is wrong.
    """
    try:
        old = read_declared(before)
    except (RingfenceError, OSError):
        old = Declared()
    new = read_declared(after)
    found = [
        *_suggestion(store, name, tenant, before, after),
        *_requirements(old, new),
        *_manifest(old.asks, new.asks),
    ]
    if (after / "install.py").is_file() and not (before / "install.py").is_file():
        found.append(Difference("install.py", "new; it is not run here", is_more=False))
    return _bounded(found)


def _suggestion(
    store: PolicyStore, name: ExtensionName, tenant: TenantId, before: Path, after: Path
) -> Iterator[Difference]:
    old_text, new_text = _read(before / SUGGESTION), _read(after / SUGGESTION)
    if new_text == old_text:
        return
    what = "policy suggestion"
    if new_text is None:
        yield Difference(what, f"{SUGGESTION} is gone", is_more=False)
        return
    now = store.effective(name, tenant)
    try:
        wanted = store.check_text(new_text, SUGGESTION, tenant)
    except PolicyError as error:
        # Over a ceiling, or a wish that this version of Ringfence does not know: in any case not what is allowed here.
        yield Difference(what, f"could not be adopted here: {error.message}", is_more=True)
        return
    try:
        base = None if old_text is None else store.check_text(old_text, SUGGESTION, tenant)
    except PolicyError:
        base = None
    missing = {(change.key, change.after) for change in asks_more(now, wanted)}
    for change in compare(base or store.check_text("{}", SUGGESTION, tenant), wanted):
        if not _is_the_packs(change, wanted, base):
            continue
        is_granted = change.is_more and (change.key, change.after) not in missing
        granted = "; today's policy grants it" if is_granted else ""
        text = str(change) if base is not None else f"{change.key}: {change.after}"
        yield Difference(what, f"{text}{granted}", change.is_more)


def _is_the_packs(change: Change, wanted: EffectivePolicy, base: EffectivePolicy | None) -> bool:
    """Whether a suggestion says so itself: what the operator's defaults hold is nobody's news."""
    if wanted.source(change.key).layer == "extension":
        return base is not None or bool(change.after)
    return base is not None and base.source(change.key).layer == "extension"


def _read(file: Path) -> str | None:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as stream:
        # One byte more than is taken, so that what is too long is seen to be.
        return stream.read(_LARGEST + 1).decode("utf-8", "replace")


def _requirements(old: Declared, new: Declared) -> Iterator[Difference]:
    before, after = _by_name(old), _by_name(new)
    for name in sorted(after.keys() - before.keys()):
        yield Difference("requirement", f"{after[name]} (new)", is_more=True)
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield Difference("requirement", f"{before[name]} -> {after[name]}", is_more=False)
    for name in sorted(before.keys() - after.keys()):
        yield Difference("requirement", f"{before[name]} (gone)", is_more=False)


def _by_name(declared: Declared) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for wanted in (*declared.wanted, *declared.implied):
        requirement = wanted.requirement
        name = requirement.name.lower().replace("_", "-")
        found.setdefault(name, safe_text(str(requirement), 120))
    return found


def _manifest(before: Sequence[str], after: Sequence[str]) -> Iterator[Difference]:
    for text in after:
        if text not in before:
            yield Difference("manifest", f"{safe_text(text, _TEXT)} (new)", is_more=True)
    for text in before:
        if text not in after:
            yield Difference("manifest", f"{safe_text(text, _TEXT)} (gone)", is_more=False)


# -- what it registered ----------------------------------------------------------------------------------------------


def compare_loaded(
    old: Entry, new: Entry, policy: EffectivePolicy, others: Mapping[str, ExtensionName]
) -> tuple[Difference, ...]:
    """What two versions registered; ``others`` are the classes that other extensions offer, and whose they are."""
    found: list[Difference] = []
    for name in sorted(new.nodes.keys() - old.nodes.keys()):
        owner = others.get(name)
        taken = f"; extension '{owner}' offers one of that name, too" if owner else ""
        found.append(Difference("node", f"{safe_text(name, 120)} (new){taken}", is_more=owner is not None))
    found += (
        Difference("node", f"{safe_text(name, 120)} (gone): prompts that use it are refused", is_more=False)
        for name in sorted(old.nodes.keys() - new.nodes.keys())
    )
    served = "served, since" if policy.routes else "not served, since"
    where = f"{served} its policy says 'routes: {str(policy.routes).lower()}' ({policy.source('routes')})"
    found += _added("route", old.route_names, new.route_names, where)
    if new.prompt_handlers > old.prompt_handlers:
        text = f"{old.prompt_handlers} -> {new.prompt_handlers}: they see and change prompts, if {where}"
        found.append(Difference("prompt handler", text, is_more=True))
    if new.web_directory and not old.web_directory:
        state = "served" if policy.web_files else "not served"
        text = f"{safe_text(new.web_directory, 120)} (new), {state} ({policy.source('web_files')})"
        found.append(Difference("web files", text, is_more=True))
    return _bounded(found)


def _added(what: str, before: Collection[str], after: Collection[str], where: str) -> Iterator[Difference]:
    for name in sorted(set(after) - set(before)):
        yield Difference(what, f"{name} (new), {where}", is_more=True)
    for name in sorted(set(before) - set(after)):
        yield Difference(what, f"{name} (gone)", is_more=False)


def _bounded(found: Sequence[Difference]) -> tuple[Difference, ...]:
    """So many that somebody reads them; what asks for more comes first and is never dropped without a word."""
    ordered = sorted(found, key=lambda each: not each.is_more)
    if len(ordered) <= _SHOWN:
        return tuple(ordered)
    rest = ordered[_SHOWN:]
    more = sum(each.is_more for each in rest)
    text = f"{len(rest)} more differences, of which {more} ask for more"
    return (*ordered[:_SHOWN], Difference("and", text, is_more=more > 0))
