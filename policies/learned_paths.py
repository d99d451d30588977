"""Which entries of ``paths`` a run used: what was written is measured, what was read only the sandbox can tell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from policies.learned_text import Basis, Item, Line, counted, once, size
from policies.model import EffectivePolicy
from policies.observed import Observed
from policies.path_entries import HostPath, TenantPath

_APP: Final = "/app"
_AREAS: Final = ("input", "output", "temp", "models", "user")
_UNWANTED: Final = "not seen in use"


def place_of(entry: TenantPath | HostPath) -> str:
    """Where a sandbox finds the entry."""
    return entry.mount if isinstance(entry, HostPath) else f"{_APP}/{entry.tenant}"


def learned_paths(seen: Observed, now: EffectivePolicy, most: int) -> Iterator[Line]:
    """The entries that were used, with the least access; and what lay outside of all of them."""
    entries = sorted(
        now.paths, key=lambda entry: -len(place_of(entry))
    )  # the innermost is what the sandbox sees
    reads, writes = _sorted_out(seen.claims.reads, entries), _sorted_out(seen.claims.writes, entries)
    items: list[Item] = []
    for entry in now.paths:
        place = place_of(entry)
        nbytes, names = seen.written.get(place, (0, 0))
        read, wrote = reads.get(place, 0), writes.get(place, 0)
        if entry.access == "rw" and (nbytes or names):
            said = f"{size(nbytes)} and {counted(names, 'file')} were added"
            items.append(Item(_text(entry, "rw"), said, Basis.MEASURED))
        elif entry.access == "rw" and wrote:
            items.append(Item(_text(entry, "rw"), f"written to {once(wrote)}", Basis.CLAIMED))
        elif read or wrote:
            tried = f"; it wanted to write there too, {once(wrote)}" if wrote else ""
            items.append(Item(_text(entry, "ro"), f"read {once(read or wrote)}{tried}", Basis.CLAIMED))
        elif seen.failed_import:
            items.append(Item(_text(entry, entry.access), "kept as it was: its import failed", Basis.KEPT))
        elif not seen.claims.has_spoken:
            items.append(Item(_text(entry, "ro"), "kept: whether it was read is not known", Basis.KEPT))
        else:
            items.append(Item(_text(entry, entry.access), _UNWANTED, Basis.CLAIMED, is_wish=True))
    yield Line("paths", (*items, *_outside(reads[""], writes[""], most)))


def _sorted_out(paths: Counter[str], entries: Iterable[TenantPath | HostPath]) -> dict[str, Any]:
    """How often each entry's place was touched; under ``""`` what lies below none."""
    found: dict[str, Any] = {"": Counter()}
    places = [place_of(entry) for entry in entries]
    for path, count in paths.items():
        place = next((place for place in places if path == place or path.startswith(place + "/")), None)
        if place is None:
            found[""][path] += count
        else:
            found[place] = found.get(place, 0) + count
    return found


def _outside(reads: Counter[str], writes: Counter[str], most: int) -> Iterator[Item]:
    areas: dict[str, tuple[int, int]] = {}
    elsewhere: Counter[str] = Counter()
    for is_write, paths in ((False, reads), (True, writes)):
        for path, count in paths.items():
            area = path.removeprefix(f"{_APP}/").partition("/")[0]
            if path.startswith(f"{_APP}/") and area in _AREAS:
                read, wrote = areas.get(area, (0, 0))
                areas[area] = (read, wrote + count) if is_write else (read + count, wrote)
            elif not path.startswith(f"{_APP}/") and path != _APP:
                elsewhere[path] += count
    for area in _AREAS:
        if area in areas:
            read, wrote = areas[area]
            access = "rw" if wrote and area != "models" else "ro"
            said = f"read {once(read)}" if not wrote else f"written to {once(wrote)}"
            yield Item(
                f"{{tenant: {area}, access: {access}}}", f"{said}, and not granted", Basis.CLAIMED, True
            )
    for path, count in elsewhere.most_common(most):
        name = path.strip("/").rpartition("/")[2] or "NAME"
        mount = json.dumps(f"/mnt/{name}")
        text = f"{{host: {json.dumps(path)}, mount: {mount}, access: ro}}"
        yield Item(text, f"asked for {once(count)}, and not there", Basis.CLAIMED, True)


def _text(entry: TenantPath | HostPath, access: str) -> str:
    if isinstance(entry, HostPath):
        return f"{{host: {json.dumps(entry.host)}, mount: {json.dumps(entry.mount)}, access: {access}}}"
    scope = "" if entry.area in ("input", "models") else f", scope: {entry.scope}"
    return f"{{tenant: {json.dumps(entry.tenant)}, access: {access}{scope}}}"
