"""What a container gets besides a wall when its policy allows a network: variables, and where the bridge leads.

The container itself stays without one (network mode ``none``). These are conveniences for the programs in it: a pack
that ignores them reaches nothing at all.
"""

from __future__ import annotations

from typing import Final

from policies import EffectivePolicy
from runtime import wire

PLACEHOLDER: Final = "ringfence-secret-"
"""Begins what a pack finds in the variable of a secret; the proxy sets the real header."""
_BUNDLE_VARIABLES: Final = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)


def network_variables(policy: EffectivePolicy) -> dict[str, str]:
    """The variables that make ordinary clients use the proxy."""
    if not policy.network:
        # Without this a download is tried for minutes before it fails.
        return {"HF_HUB_OFFLINE": "1"}
    proxy = f"http://127.0.0.1:{wire.EGRESS_PORT}"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy)
    proxies["NO_PROXY"] = "localhost,127.0.0.1,::1"
    variables = {**proxies, **{name.lower(): value for name, value in proxies.items()}}
    if policy.secrets:
        variables |= dict.fromkeys(_BUNDLE_VARIABLES, wire.EGRESS_BUNDLE)
        variables |= {secret.name: f"{PLACEHOLDER}{secret.name}" for secret in policy.secrets}
    return variables


def network_arguments(policy: EffectivePolicy) -> list[str]:
    """Arguments of the worker that start the bridge."""
    return ["--egress", wire.EGRESS_SOCKET] if policy.network else []
