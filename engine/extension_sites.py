"""Routes, prompt handlers and node replacements of a tenant's extensions: who has which, and who may use them.

Everything here is what workers said when they loaded a pack; the policies say whether it is used (``routes: true``),
and are read anew for each request that a pack would answer. Among packs that registered the same path the one that was
added first answers, as in ComfyUI; routes whose first part is a variable come after all others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from engine.extension_errors import RoutesOffError
from engine.extension_shelf import Entry, Shelf
from engine.route_paths import path_parts
from policies import ExtensionName, RingfenceError, TenantId, safe_text

log = logging.getLogger(__name__)

_NOTES = 20


class Sites:
    """What the extensions on a shelf serve besides nodes."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def serving(self, tenant: TenantId, method: str, path: str) -> tuple[ExtensionName, str] | None:
        """Who answers a request at ComfyUI's path, and the path that the pack knows it by; None: nobody.

        ``path`` is percent-decoded. As in ComfyUI every path is there a second time below ``/api``.
        """
        forms = [path, path.removeprefix("/api")] if path.startswith("/api/") else [path]
        ways = [(form, path_parts(form)) for form in forms]
        for is_last in (False, True):
            for entry in self._entries(tenant):
                for form, parts in ways:
                    answers = any(
                        route.is_last is is_last and route.answers(method, parts) for route in entry.routes
                    )
                    if answers and await self._may_serve(entry):
                        return entry.name, form
        return None

    async def check(self, tenant: TenantId, extension: ExtensionName) -> None:
        """Raises: ExtensionUnknownError; RoutesOffError when it has no routes or its policy does not allow them."""
        entry = self._shelf.entry(tenant, extension)
        if not entry.route_count:
            raise RoutesOffError(f"extension '{extension}' registers no HTTP routes")
        if not (await self._shelf.read_policy(entry)).routes:
            raise RoutesOffError(
                f"extension '{extension}' registers HTTP routes, and its policy does not allow them",
                hint=f"the operator may write 'routes: true' in {extension}.yaml",
            )

    async def prompt_handlers(self, tenant: TenantId) -> list[ExtensionName]:
        """The extensions whose prompt handlers are called, in the order of adding."""
        return [
            entry.name
            for entry in self._entries(tenant)
            if entry.prompt_handlers and await self._may_serve(entry)
        ]

    def notes(self, entry: Entry) -> tuple[str, ...]:
        """What the operator should know: routes that are off, and routes that another extension answers."""
        if not entry.route_count and not entry.prompt_handlers:
            return ()
        if not entry.may_serve:
            what = [f"{entry.route_count} HTTP route(s)"] if entry.route_count else []
            what += [f"{entry.prompt_handlers} prompt handler(s)"] if entry.prompt_handlers else []
            return (
                f"it registers {' and '.join(what)}, which its policy does not allow ('routes: true' would)",
            )
        taken: dict[tuple[str, Any], ExtensionName] = {}
        for other in self._entries(entry.tenant):
            if other.name == entry.name:
                break
            if other.may_serve:
                for route in other.routes:
                    taken.setdefault((route.method, route.parts), other.name)
        lost = [
            f"route {safe_text(route.method, 16)} '{safe_text(route.text, 120)}' is answered by extension "
            f"'{taken[route.method, route.parts]}', which was added before; this one's is below "
            f"/ringfence/v1/extensions/{entry.name}/routes"
            for route in entry.routes
            if (route.method, route.parts) in taken
        ]
        more = [f"and {len(lost) - _NOTES} more routes"] if len(lost) > _NOTES else []
        return (*lost[:_NOTES], *more)

    def _entries(self, tenant: TenantId) -> Iterator[Entry]:
        return (entry for entry in self._shelf.of(tenant) if entry.record.state == "ready" and not entry.core)

    async def _may_serve(self, entry: Entry) -> bool:
        try:
            return (await self._shelf.read_policy(entry)).routes
        except RingfenceError as error:
            log.warning("routes of extension %s are off: %s", entry.name, error)
            return False
