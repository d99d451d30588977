"""A store of objects that are not bytes, and that counts who refers to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from policies import SandboxId, TenantId
from sandbox.calls import Value
from sandbox.errors import SandboxError


class FakeStore:
    """Counts references; ``references`` is empty when everybody gave back what they held."""

    def __init__(self) -> None:
        self.references: Counter[str] = Counter()
        self.data: dict[str, Any] = {}
        self.lost: set[str] = set()
        self.given_back: list[tuple[TenantId, int]] = []
        """Who was to have memory back at once, and how many objects were referred to then."""
        self.on_pressure: Callable[[TenantId, SandboxId | None, int], None] = lambda *_: None

    def add(self, data: Any) -> str:
        """A new object with one reference."""
        name = f"object-{len(self.data)}"
        self.data[name] = data
        self.references[name] = 1
        return name

    async def put(self, tenant: TenantId, data: bytes) -> str:  # noqa: ARG002
        return self.add(data)

    def retain(self, value: Value) -> None:
        for name in value.objects:
            if name in self.lost:
                raise SandboxError(f"object {name} is gone")
            if name not in self.references:
                raise AssertionError(f"{name} is retained after it was freed")
            self.references[name] += 1

    def release(self, value: Value) -> None:
        for name in value.objects:
            self.references[name] -= 1
            if self.references[name] == 0:
                del self.references[name]

    async def give_back(self, tenant: TenantId) -> None:
        self.given_back.append((tenant, len(self.references)))
