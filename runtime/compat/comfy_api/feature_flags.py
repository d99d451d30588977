"""``comfy_api.feature_flags``: what server and client can do.

The server's flags are those that the Ringfence host announces. Which client is connected is not known in a sandbox:
a client's feature counts as absent.
"""

from __future__ import annotations

from typing import Any

SERVER_FEATURE_FLAGS: dict[str, Any] = {
    "supports_preview_metadata": True,
    "max_upload_size": 100 * 1024 * 1024,
    "extension": {"manager": {"supports_v4": False}},
    "node_replacements": True,
}


def get_connection_feature(
    sockets_metadata: dict[str, dict[str, Any]], sid: str, feature_name: str, default: Any = False
) -> Any:
    """What the client ``sid`` says of a feature."""
    flags = sockets_metadata.get(sid, {}).get("feature_flags", {})
    return flags.get(feature_name, default)


def supports_feature(sockets_metadata: dict[str, dict[str, Any]], sid: str, feature_name: str) -> bool:
    return get_connection_feature(sockets_metadata, sid, feature_name, False) is True


def get_server_features() -> dict[str, Any]:
    return dict(SERVER_FEATURE_FLAGS)
