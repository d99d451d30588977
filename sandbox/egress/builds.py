"""The way of builds to the package index and to nothing else: one gate for all of them, as sandboxes have one each.

Where the operator names the index, build containers have no network but loopback; what they reach is what the
operator's own index settings name, and nothing where these name none. An index that the operator names may stand in a
private network, so its addresses are not refused.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import anyio

from policies import Destination, SandboxId, TenantId
from sandbox.egress.attempts import Attempt, Verdict, log_attempt
from sandbox.egress.connect import Connector
from sandbox.egress.decision import Rules
from sandbox.egress.gate import EgressGate
from sandbox.egress.limits import EgressLimits
from sandbox.egress.office import EgressOffice
from sandbox.errors import StartError
from sandbox.launcher.build_verb import BUILDS, BuildSettings, IndexSettings
from sandbox.launcher.verbs import SandboxRequest
from sandbox.places import Places

_VARIABLES: Final = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
_NAMED: Final = re.compile(r"[A-Za-z0-9_.-]+=(?=[a-z]+://)")
_KEPT: Final = 32
_MIB: Final = 1024 * 1024


def index_rules(environment: Mapping[str, str], more: Iterable[Destination] = ()) -> Rules:
    """What builds may reach: the hosts of the operator's indexes, and ``more``."""
    urls = [url for name in _VARIABLES for url in environment.get(name, "").split()]
    named = [place for url in urls if (place := _destination(_NAMED.sub("", url, count=1))) is not None]
    found = dict.fromkeys((*named, *more))
    return Rules(tuple(found), "the operator's package index", private=frozenset(found))


def _destination(url: str) -> Destination | None:
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return None
    return Destination(parts.hostname, port) if parts.hostname and port else None


class RefusedPlaces:
    """Where builds wanted to go of late and were not let: what an index names as the place of its files, say."""

    def __init__(self) -> None:
        self._last: deque[tuple[float, str]] = deque(maxlen=_KEPT)

    def hear(self, attempt: Attempt) -> None:
        """One attempt of a build; also for the log."""
        log_attempt(attempt)
        if attempt.verdict is Verdict.REFUSED and attempt.target:
            self._last.append((time.monotonic(), attempt.target))

    def since(self, moment: float) -> tuple[str, ...]:
        """The places that were refused after ``moment`` of the monotonic clock, each once."""
        return tuple(dict.fromkeys(target for at, target in self._last if at >= moment))


@asynccontextmanager
async def serve_builds(
    places: Places,
    settings: BuildSettings,
    index: IndexSettings,
    *,
    more: Iterable[Destination] = (),
    connector: Connector | None = None,
    refused: RefusedPlaces | None = None,
) -> AsyncIterator[Rules]:
    """Let builds reach the index while this is open.

    Raises:
        StartError: no index is named.
    """
    # Whole environments come through here, and a resolver asks for hundreds of packages at once.
    limits = replace(
        EgressLimits(),
        connections=256,
        tenant_connections=256,
        attempts_per_s=200.0,
        attempts_burst=2_000,
        sandbox_up=1024 * 1024 * _MIB,
        sandbox_down=1024 * 1024 * _MIB,
        tenant_up=1024 * 1024 * _MIB,
        tenant_down=1024 * 1024 * _MIB,
        bytes_per_s=512 * _MIB,
    )
    rules = index_rules(index.environment, more)
    if not rules.allowed:
        raise StartError(
            "builds may reach the package index only, and no setting names it",
            "set UV_DEFAULT_INDEX to its URL, and RINGFENCE_BUILD_HOSTS to the host of its files if that is another; "
            "or set RINGFENCE_BUILD_NETWORK to 'bridge'",
        )
    sink = log_attempt if refused is None else refused.hear
    office = EgressOffice(places, limits=limits, connector=connector, sink=sink)
    request = SandboxRequest(SandboxId(BUILDS), TenantId(BUILDS), (), policy_digest="")
    gate = EgressGate(office, request, rules, (), lambda _: None)
    gate.uid = settings.user[0]
    await gate.open()
    failed: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gate.serve)
            try:
                yield rules
            except Exception as error:  # noqa: BLE001 - raised below: a task group would wrap it
                failed = error
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await gate.remove()
    if failed is not None:
        raise failed
