"""What is said between the host and a worker before an extension is loaded: hello, and what to import ahead of need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from policies import EffectivePolicy, SandboxId, safe_text
from runtime import wire
from sandbox import messages
from sandbox.errors import ProtocolViolationError
from sandbox.fast_paths import FastPath, takes
from sandbox.launcher import failure
from sandbox.peer import ConversationEndedError, Peer, RemoteCallError


async def greet(
    peer: Peer, sandbox: SandboxId, policy: EffectivePolicy, names: failure.Names, *, is_watched: bool
) -> messages.Hello:
    """Say hello to a worker; what it says of itself.

    Raises:
        CallTimeoutError: it does not answer in time.
        ProtocolViolationError: it answers nonsense, or refuses.
        ConversationEndedError: it hung up; whoever reads the conversation knows why.
    """
    limit_s = policy.timeouts.import_s
    params = {
        "protocol": wire.PROTOCOL_VERSION,
        "sandbox": sandbox,
        "out_limit": policy.shared_memory,
        **({"watch": True} if is_watched else {}),
        **({} if takes(FastPath.WRITTEN_RESULTS) else {"in_full": True}),
        **({} if takes(FastPath.UNCHANGED_INPUTS) else {"write_all": True}),
    }
    try:
        with anyio.fail_after(limit_s):
            return messages.hello(await peer.call(wire.HELLO, params))
    except TimeoutError as error:
        raise failure.too_slow(names, "its worker's hello", "timeouts.import", limit_s) from error
    except RemoteCallError as error:
        said = safe_text(error.error.message, 500)
        raise ProtocolViolationError(
            f"it refused hello: {said}", "rebuild the node image (make up)"
        ) from error


async def slow_modules(
    peer: Peer, wanted: Sequence[str], limit_s: float, told: Callable[[str], None]
) -> frozenset[str] | None:
    """Have ``wanted`` imported; which slow modules are imported then. None: it does not say, or too late.

    Raises:
        ProtocolViolationError: it answers nonsense.
    """
    try:
        with anyio.fail_after(limit_s):
            return messages.prepared(await peer.call(wire.PREPARE, {"modules": list(wanted)}))
    except (TimeoutError, ConversationEndedError):
        pass  # a load that comes waits for its turn, under its own limit
    except RemoteCallError as error:
        told(f"not prepared: {safe_text(error.error.message, 500)}")
    return None
