"""What a bill of materials is about. Who writes it (``bill_of_materials.py``) is loaded when one is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sandbox.inventory import Inventory

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json; version=1.6"


@dataclass(frozen=True, slots=True)
class Subject:
    """The pack that a bill is about."""

    name: str
    content_hash: str
    """sha256 of its pinned files (docs/architecture/05-extensions.md says how it is made)."""
    kind: str
    location: str
    commit: str | None = None
    lock_digest: str | None = None


def make_bill(subject: Subject, inventory: Inventory) -> str:
    """The bill as JSON. Blocking."""
    # Late: its library takes a tenth of a second to import, in the host and in the launcher, and few ask for a bill.
    from sandbox.bill_of_materials import written

    return written(subject, inventory)
