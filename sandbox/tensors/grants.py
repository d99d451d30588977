"""What a sandbox may read: an object's file stands in its in directory while it is granted, and at no other time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from policies import SandboxId
from sandbox.errors import SandboxError
from sandbox.tensors.holdings import Holdings
from sandbox.tensors.objects import Objects


class Grants:
    """The in directories of all sandboxes."""

    def __init__(self, held: Holdings, objects: Objects) -> None:
        self._held = held
        self._objects = objects

    def grant(self, sandbox: SandboxId, objects: Sequence[str]) -> None:
        """Let a sandbox read objects, by their id as file name, until each grant is revoked.

        Raises:
            SandboxError: an object is gone, or belongs to another tenant.
        """
        held = self._held
        box = held.box(sandbox)
        granted: list[str] = []
        try:
            for object_id in objects:
                known = held.known(object_id)
                if known.tenant != box.tenant:
                    raise SandboxError(f"object {object_id} belongs to another tenant")
                count = box.grants.get(object_id, 0)
                if not count:
                    os.link(f"{held.shelf}/{object_id}", f"{box.inbox}/{object_id}")
                box.grants[object_id] = count + 1
                known.holders.add(sandbox)
                known.seen_by_others |= sandbox != known.producer
                known.references += 1  # a release while the node runs must not pull it away
                granted.append(object_id)
        except BaseException:
            self.revoke(sandbox, granted)
            raise

    def revoke(self, sandbox: SandboxId, objects: Iterable[str]) -> None:
        """Take grants back; the name goes with the last one. What the sandbox has mapped it may still read."""
        box = self._held.boxes.get(sandbox)
        for object_id in objects:
            count = 0 if box is None else box.grants.get(object_id, 0)
            if box is not None and count > 1:
                box.grants[object_id] = count - 1
            elif box is not None and count:
                del box.grants[object_id]
                try:
                    os.unlink(f"{box.inbox}/{object_id}")  # noqa: PTH108  (as in ``adoption.py``)
                except FileNotFoundError:
                    pass
            self._objects.release_objects((object_id,))
