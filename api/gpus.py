"""The GPUs that a tenant's sandboxes may use, for ``/system_stats``: named by policies, described by NVIDIA's NVML.

The library comes with the driver; where there is none, no GPU is listed. Only what a policy gives to an extension is
shown: a machine's other cards, and who fills them, are not a tenant's business. Slices of a card (MIG) are not
listed. All of this blocks.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policies import PolicyStore, RingfenceError, TenantId, safe_text

log = logging.getLogger(__name__)

_TEXT = 96  # NVML's longest name and id, with the closing zero
_MOST = 64


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card, as the driver numbers it."""

    index: int
    uuid: str
    name: str
    total: int
    free: int


def gpus_of(policies: PolicyStore, tenant: TenantId, library: Any = None) -> list[Gpu]:
    """The cards that at least one extension's effective policy gives to this tenant, in the driver's order."""
    wanted: set[str] = set()
    for extension in policies.extensions():
        try:
            wanted.update(policies.effective(extension, tenant).gpus)
        except RingfenceError:
            continue  # a broken policy starts no sandbox, and is told elsewhere
    if not wanted:
        return []
    return [gpu for gpu in read_gpus(library or _library()) if {str(gpu.index), gpu.uuid} & wanted]


def read_gpus(library: Any) -> list[Gpu]:
    """Every card that NVML tells of; none when there is no library, or it does not answer."""
    if library is None or library.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.pointer(count)) != 0:
            return []
        return list(_read(library, min(count.value, _MOST)))
    finally:
        library.nvmlShutdown()


def _read(library: Any, count: int) -> Iterator[Gpu]:
    for index in range(count):
        handle, memory = ctypes.c_void_p(), _Memory()
        name, uuid = (ctypes.create_string_buffer(_TEXT) for _ in range(2))
        failed = (
            library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.pointer(handle))
            or library.nvmlDeviceGetMemoryInfo(handle, ctypes.pointer(memory))
            or library.nvmlDeviceGetName(handle, name, ctypes.c_uint(_TEXT))
            or library.nvmlDeviceGetUUID(handle, uuid, ctypes.c_uint(_TEXT))
        )
        if failed:  # a card that fell off the bus leaves the others
            log.warning("NVML does not describe GPU %d: error %d", index, failed)
            continue
        label = safe_text(name.value.decode("ascii", "replace"), _TEXT)
        yield Gpu(index, uuid.value.decode("ascii", "replace"), label, memory.total, memory.free)


def _library() -> Any:
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
