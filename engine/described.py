"""When a worker was asked last for its nodes, and whether asking again could bring anything else.

ComfyUI calls every node's ``INPUT_TYPES`` for each look at the catalogue. What these answer comes from the directories
that the pack sees and from what it did meanwhile; while both are as they were, what it said stands. What else there is
(a file written in place, a list fetched from the network, the time) is not noticed: hence ``FRESH_S``, after which the
worker is asked again behind the answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.directory_looks import Look, Root
from policies import EffectivePolicy, ExtensionName, SandboxId, TenantPath, own_folder

FRESH_S: Final = 10.0

Rest = tuple[tuple[SandboxId, int], ...] | None
"""How much each sandbox of an extension has done; None while one does something."""


@dataclass(frozen=True, slots=True)
class Described:
    """What one description of all nodes depended on."""

    rest: Rest
    policy: str
    seen: Look
    at: float

    def was_of(self, rest: Rest, policy: str) -> bool:
        """Whether the pack has done nothing since, under the same policy."""
        return rest is not None and (self.rest, self.policy) == (rest, policy)

    @property
    def is_fresh(self) -> bool:
        """Whether it is so young that nobody need be asked behind it."""
        return time.monotonic() - self.at < FRESH_S


def roots_of(policy: EffectivePolicy, tenant: Path, extension: ExtensionName) -> list[Root]:
    """The directories that an extension sees; ``sandbox/launcher/mounts.py`` mounts the same."""
    own = own_folder(extension, policy.group)
    roots = []
    for entry in policy.paths:
        if isinstance(entry, TenantPath):
            parts = (*entry.tenant.split("/"), *(() if entry.scope == "tenant" else (own,)))
            roots.append(Root(tenant.joinpath(*parts), may_be_absent=True))
        else:
            roots.append(Root(Path(entry.host), may_be_absent=False))
    return roots
