"""The lowest layer: what holds for a key that no file writes, as data.

The shipped `default.yaml` says the same with its reasons beside each line (a test holds the two together); this
copy means that deleting a line, or the whole file, never leaves a sandbox without a cap.
"""

from __future__ import annotations

from policies.model import DefaultsFile

BUILT_IN = DefaultsFile.model_validate(
    {
        "defaults": {
            "memory": "2GiB",
            "cpus": 1,
            "pids": 256,
            "nofile": 1024,
            "tmp": "256MiB",
            "scratch": "512MiB",
            "shared_memory": "2GiB",
            "disk": "4GiB",
            "disk_files": 20000,
            "isolation": "runc",
            "transport": "socket",
            "network": "none",
            "secrets": [],
            "gpus": 0,
            "routes": False,
            "web_files": False,
            "environment": {},
            "paths": [
                {"tenant": "input", "access": "ro"},
                {"tenant": "output", "access": "rw", "scope": "extension"},
                {"tenant": "temp", "access": "rw", "scope": "extension"},
            ],
            "timeouts": {"import": "2m", "call": "10m", "idle": "5m", "grace": "2s"},
            "limits": {
                "output_bytes": "1GiB",
                "outputs": 4096,
                "log_rate": 200,
                "log_bytes": "1MiB",
                "expansion_nodes": 1000,
                "expansion_depth": 2000,
                "message_bytes": "8MiB",
            },
            "build": {"network": True, "timeout": "15m", "source_builds": False},
        },
        "ceilings": {
            "memory": "16GiB",
            "cpus": 8,
            "pids": 2048,
            "nofile": 8192,
            "tmp": "4GiB",
            "scratch": "4GiB",
            "shared_memory": "8GiB",
            "disk": "64GiB",
            "disk_files": 1_000_000,
            "gpus": 4,
            "routes": True,
            "web_files": True,
            "isolation": "runc",
            "network": "none",
            "secrets": {},
            "environment": "any",
            "timeouts": {"import": "10m", "call": "6h", "idle": "24h", "grace": "30s"},
            "limits": {
                "output_bytes": "8GiB",
                "outputs": 65536,
                "log_rate": 10000,
                "log_bytes": "64MiB",
                "expansion_nodes": 10000,
                "expansion_depth": 10000,
                "message_bytes": "64MiB",
            },
            "build": {"network": True, "timeout": "6h", "source_builds": True},
        },
        "path_roots": [],
    }
)
