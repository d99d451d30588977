"""The object store in /dev/shm: who may hold how much, who may see what, and when bytes are given back.

An object is a file that nobody can write any more: a tensor, bytes, a long string or a large JSON value. It is born
in a sandbox's outbox (``outboxes.py``), becomes the host's (``adoption.py``) and is seen by a sandbox only while
granted (``grants.py``). Whoever holds a reference keeps it (``objects.py``); a dead one is filled again by its maker
(``dead_outputs.py``) or freed. Who may have more, and what gives way to them, stands in ``room.py``.

The store never looks into an object and knows no dtype. What the kernel does for it stands in ``sandbox/shm.py``, the
books in ``sandbox/accounts.py``. Everything here must be called on the event loop; work that depends on a file's size
runs in threads.
"""

from sandbox.tensors.store import TensorStore

__all__ = ["TensorStore"]
