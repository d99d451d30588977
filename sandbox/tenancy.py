"""A sandbox and the extensions in it: each is loaded once, however many callers want it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.abc

from policies import ExtensionName, SandboxId, TenantId
from sandbox.call_book import CallBook
from sandbox.errors import LoadFailedError, StartError
from sandbox.launcher.verbs import SandboxRequest
from sandbox.lifecycle import Sandbox
from sandbox.planning import Plan
from sandbox.session import ExtensionSession
from sandbox.surroundings import Surroundings
from sandbox.watching import Watch


@dataclass(slots=True, eq=False)
class _Load:
    """An extension's import: a task that any number of callers may wait for."""

    done: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None


class Tenancy:
    """One sandbox, made for a plan, and its sessions."""

    def __init__(
        self,
        plan: Plan,
        around: Surroundings,
        *,
        watch: Watch | None,
        ahead: Sequence[str] | None,
        on_success: Callable[[], None],
    ) -> None:
        self.key = plan.key
        self.files = {item.name: item for item in plan.files}
        self._around = around
        self._on_success = on_success
        self._sessions: dict[ExtensionName, ExtensionSession] = {}
        self._loads: dict[ExtensionName, _Load] = {}
        self._calls = CallBook()
        kind, _, name = plan.key.unit.partition(":")
        request = SandboxRequest(
            sandbox=_new_id(plan.key.tenant, name),
            tenant=plan.key.tenant,
            extensions=plan.files,
            policy_digest=plan.key.policy_digest,
            group=name if kind == "group" else None,
        )
        self.sandbox = Sandbox(
            request,
            plan.policy,
            around,
            extension_of_call=self._calls.extension_of,
            node_of_call=self._calls.node_of,
            watch=watch,
            ahead=ahead,
        )

    @property
    def is_loading(self) -> bool:
        """Whether an extension is being loaded in it."""
        return bool(self._loads)

    def loaded(self, extension: ExtensionName) -> ExtensionSession | None:
        """The session of an extension that has been loaded."""
        session = self._sessions.get(extension)
        return session if session is not None and session.is_loaded else None

    async def session(self, extension: ExtensionName, group: anyio.abc.TaskGroup) -> ExtensionSession:
        """The session of an extension, which is loaded now if it is not; the load is a task of ``group``.

        Raises:
            LoadFailedError: its import failed.
            SandboxError: its sandbox ended meanwhile.
        """
        session = self._sessions.get(extension)
        if session is None:
            session = self._sessions[extension] = ExtensionSession(
                self.sandbox,
                extension,
                self._calls,
                self._around.store,
                self._around.launcher,
                on_success=self._on_success,
            )
        if not session.is_loaded:
            load = self._loads.get(extension)
            if load is None:
                load = self._loads[extension] = _Load()
                group.start_soon(self._load, session, load)
            await load.done.wait()
            if load.error is not None:
                raise load.error
        return session

    async def _load(self, session: ExtensionSession, load: _Load) -> None:
        """Load an extension. A caller that goes away does not end this: others may wait, and it is of use later."""
        files = self.files[session.extension]
        try:
            with self.sandbox.busy():
                name = "nodes" if files.core else f"custom_nodes.{files.name}"
                await session.load(name, core=files.core)
        except LoadFailedError as error:
            load.error = error
            # The worker holds half a pack now; the next try gets a fresh one. In a group the others go on.
            del self._sessions[session.extension]
            if not self._sessions:
                self.sandbox.end(error, deliberate=True)
                await self.sandbox.gone()
        except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
            load.error = error
        except BaseException:
            load.error = StartError("Ringfence is shutting down")
            raise
        finally:
            del self._loads[session.extension]
            load.done.set()


def _new_id(tenant: TenantId, name: str) -> SandboxId:
    """Readable in ``docker ps``, and never the same twice."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{tenant}-{name}".lower()).strip("-")[:40].rstrip("-")
    return SandboxId(f"{words}-{secrets.token_hex(4)}")
