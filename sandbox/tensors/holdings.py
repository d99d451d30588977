"""What there is: the objects of one instance, and what each of its sandboxes has. Looked up here, changed elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from policies import SandboxId, TenantId
from sandbox.accounts import Account, Ledger
from sandbox.errors import SandboxError
from sandbox.reaper import Reaper


@dataclass(slots=True)
class StoredObject:
    """A file that is the host's, and that nobody can write."""

    id: str
    tenant: TenantId
    producer: SandboxId | None
    """None: the host made it, or its maker is gone."""
    nbytes: int
    fd: int
    """Read-only; -1: none is open."""
    leased: bool
    """The kernel tells when somebody opens it for writing; not so a copy, which nobody else ever could open."""
    references: int = 0
    lost: bool = False
    """Its maker could write to it, and is ended for that."""
    seen_by_others: bool = False
    """It was granted to a sandbox that did not make it."""
    holders: set[SandboxId] = field(default_factory=set)
    """Sandboxes that may have it open: whoever it was granted to, and its maker."""


@dataclass(slots=True)
class Box:
    """What a sandbox has: two directories, an account, files to fill and grants."""

    tenant: TenantId
    inbox: str
    outbox: str
    """Directories, as text like the shelf below."""
    account: Account
    zero_copy: bool
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By the name of a file that was allocated and is not published yet: our descriptor, and its bytes."""
    pending: int = 0
    """Files that are in the making."""
    grants: dict[str, int] = field(default_factory=dict)
    """How often each object is granted: never 0 times."""


class Holdings:
    """All objects and sandboxes, the books on them, and who frees what nobody wants any more."""

    def __init__(self, shelf: Path, ledger: Ledger, reaper: Reaper) -> None:
        self.shelf = str(shelf)
        """Where objects lie. As text: a path object costs more to make than any of what the kernel does here."""
        self.objects: dict[str, StoredObject] = {}
        self.boxes: dict[SandboxId, Box] = {}
        self.ledger = ledger
        self.reaper = reaper

    def path(self, name: str) -> Path:
        """Where an object lies."""
        return Path(self.shelf, name)

    def box(self, sandbox: SandboxId) -> Box:
        """A sandbox's box.

        Raises:
            SandboxError: it has ended.
        """
        try:
            return self.boxes[sandbox]
        except KeyError:
            raise SandboxError(f"sandbox {sandbox} has ended") from None

    def known(self, object_id: str) -> StoredObject:
        """An object.

        Raises:
            SandboxError: there is none of that name.
        """
        known = self.objects.get(object_id)
        if known is None or known.lost:
            raise SandboxError(f"object {object_id} is gone", "run the node that made it again")
        return known

    def account(self, sandbox: SandboxId | None) -> Account | None:
        """Who pays for what a sandbox made, beside its tenant; nobody once it has ended."""
        box = self.boxes.get(sandbox) if sandbox else None
        return box.account if box else None
