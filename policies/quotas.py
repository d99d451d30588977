"""What one tenant may use, all its sandboxes and requests together: the `quotas` of `default.yaml`.

`quotas` holds for every tenant, `tenants.<tenant>.quotas` for one of them and wins key by key. A key that nobody writes
means no limit of its own: then the installation's settings are what ends it. How much is used, and what happens beyond,
is the engine's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict

from policies.fields import Count, Seconds, Size


class PartialQuotas(BaseModel):
    """Quotas as a file writes them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    prompts: Count | None = None
    """Prompts that run at the same time."""
    queued: Count | None = None
    """Prompts that wait."""
    sandboxes: Count | None = None
    """Sandboxes that live at the same time."""
    memory: Size | None = None
    """Memory caps of its sandboxes together."""
    cpu_seconds: Count | None = None
    """CPU time of its sandboxes within `window`."""
    gpu_seconds: Count | None = None
    """Time within `window` that its sandboxes hold GPUs, times their number."""
    window: Seconds | None = None
    """The time over which CPU and GPU seconds are counted; it moves along."""
    shared_memory: Size | None = None
    """Bytes in /dev/shm."""
    disk: Size | None = None
    """Bytes of its files: input, output, temp, user, assets, extensions."""
    files: Count | None = None
    """Files and directories of the same."""
    upload: Size | None = None
    """One upload, whole request."""
    requests: Count | None = None
    """Requests per second in the long run."""
    burst: Count | None = None
    """Requests at once, after a pause."""
    websockets: Count | None = None
    """Open WebSockets."""
    history: Size | None = None
    """Bytes of its history; the oldest entries go first."""
    weight: Count | None = None
    """Its share of turns and sandboxes beside other tenants: one with 2 gets twice as many as one with 1."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """What holds for one tenant; None: no limit of its own."""

    prompts: int | None = None
    queued: int | None = None
    sandboxes: int | None = None
    memory: int | None = None
    cpu_seconds: int | None = None
    gpu_seconds: int | None = None
    window: float = 3600.0
    shared_memory: int | None = None
    disk: int | None = None
    files: int | None = None
    upload: int | None = None
    requests: int | None = None
    burst: int | None = None
    websockets: int | None = None
    history: int | None = None
    weight: int = 1
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """Which line, or setting, says so."""

    def source(self, key: str) -> str:
        """Where a value comes from, for messages."""
        return self.sources.get(key, "built-in")


BUILT_IN_QUOTAS = PartialQuotas.model_validate(
    {
        "window": "1h",
        "disk": "100GiB",
        "files": 1_000_000,
        "requests": 100,
        "burst": 500,
        "history": "256MiB",
        "weight": 1,
    }
)
"""What holds for a key that no file writes, where there is such a value."""

QUOTA_KEYS = tuple(item.name for item in fields(Quotas) if item.name != "sources")


def merged_quotas(layers: Sequence[tuple[PartialQuotas | None, Mapping[str, str]]]) -> Quotas:
    """The last layer that writes a key wins; each comes with the source of its keys."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for partial, places in [(BUILT_IN_QUOTAS, {}), *layers]:
        if partial is None:
            continue
        for key in QUOTA_KEYS:
            value = getattr(partial, key)
            if value is not None:
                values[key] = value
                sources[key] = places.get(key, "built-in")
    return Quotas(**values, sources=MappingProxyType(sources))


def built_in_quotas() -> Quotas:
    """What holds when no file can be read."""
    return merged_quotas([])
