"""Every way in which a sandbox ends: its kind, its limit, its figure, under both runtimes; and a neighbour works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from sandbox import EndedError, ProtocolViolationError, SandboxError
from tests.contract.kit import call, ignore
from tests.security.test_hostile_packs import FIND_SOCKET, PIDS, attack, beside_a_neighbour, one, pack

pytestmark = [pytest.mark.docker, pytest.mark.anyio]


@dataclass(frozen=True)
class Death:
    """What a pack does, under which policy, and what is said about it."""

    body: str
    says: str
    figure: str
    policy: str = ""
    kind: type[SandboxError] = EndedError


ON = "\ntime.sleep(60)\n"
DEATHS = {
    "memory": Death(
        "kept = [bytearray(b'x') * (1 << 20) for _ in range(4096)]",
        "killed: memory cap 256 MiB (policies/evil.yaml:1)",
        "256 MiB",
        "memory: 256MiB\n",
    ),
    "pids": Death(
        "children = []\ntry:\n    while len(children) < 1000:\n        child = os.fork()\n        if not child:\n"
        "            time.sleep(60)\n        children.append(child)\nexcept OSError:\n    time.sleep(2)\nos._exit(3)",
        "pids cap {pids} (policies/evil.yaml:1)",
        "{pids}",
        "pids: {pids}\n",
    ),
    "disk": Death(
        "for number in range(40):\n    open(f'/app/output/{number}', 'wb').write(b'x' * (1 << 20))" + ON,
        "disk cap 16 MiB (policies/evil.yaml:1)",
        "MiB in one call",
        "disk: 16MiB\n",
    ),
    "time": Death(
        "while True:\n    pass",
        "took longer than timeouts.call 500 ms (policies/evil.yaml:1)",
        "500 ms",
        "timeouts: {call: 500ms}\n",
    ),
    "signal": Death("ctypes.string_at(0)", "crashed with SIGSEGV", "SIGSEGV"),
    "exit": Death("os._exit(7)", "left with status 7", "7"),
    "protocol": Death(
        FIND_SOCKET + "os.write(fds[0], b'\\xff' * 64)" + ON,
        "broke the protocol and was ended",
        "",
        kind=ProtocolViolationError,
    ),
}


@pytest.mark.parametrize("limit", DEATHS)
async def test_every_death_has_its_kind_limit_and_figure_and_a_neighbours_calls_go_on(
    tmp_path: Path, isolation: str, limit: str
) -> None:
    death = DEATHS[limit]
    pids = str(PIDS[isolation])
    policy = death.policy.replace("{pids}", pids)
    over = anyio.Event()
    answered: list[bool] = []
    async with beside_a_neighbour(tmp_path, isolation, "evil", pack(death.body), policy) as at:
        await at.session("evil")
        neighbour = await at.session("neighbour")

        async def keep_asking() -> None:
            while not (over.is_set() and answered and answered[-1]):
                done = over.is_set()
                assert one(await neighbour.execute(call("Answer"), ignore)) == 42
                answered.append(done)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(keep_asking)
                with pytest.raises(death.kind) as caught:
                    await attack(at)
                over.set()
        error = caught.value
        assert isinstance(error, EndedError | ProtocolViolationError)
        assert error.limit == limit
        assert death.figure.replace("{pids}", pids) in error.figure
        assert "extension 'evil'" in error.message
        assert death.says.replace("{pids}", pids) in error.message
        assert not answered[0], "the neighbour was served while the attack ran"
        assert neighbour.is_alive
