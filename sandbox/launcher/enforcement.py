"""What the policy language can say and this launcher cannot hold anybody to: such a sandbox is not started.

A wall that is declared and not built is worse than none. Each check here goes when its wall is built.
"""

from __future__ import annotations

from policies import EffectivePolicy
from sandbox.errors import StartError


def refuse_unenforced(policy: EffectivePolicy) -> None:
    """Raises: StartError for a policy that asks for what no part of this version enforces."""
    # The egress proxy is not there yet: without it an allowlist would mean either everything or nothing.
    for key, wanted in (("network", policy.network.allow), ("secrets", policy.secrets)):
        if wanted:
            raise StartError(
                f"the policy has '{key}' ({policy.source(key)}), which this version cannot enforce yet",
                f"write '{key}: {'none' if key == 'network' else '[]'}', or remove it",
            )
