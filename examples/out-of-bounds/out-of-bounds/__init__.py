"""A node pack that reaches for what its policy does not give: the network, and files that are not its own.

Each node raises, and says in the error what it was answered. If it got through, it returns; that would be a hole.
"""

import socket
from pathlib import Path


class ReachNetwork:
    """Opens a connection to an address."""

    @classmethod
    def INPUT_TYPES(cls):
        # 192.0.2.0/24 is reserved for documentation: nobody is there.
        return {
            "required": {
                "host": ("STRING", {"default": "192.0.2.1"}),
                "port": ("INT", {"default": 443, "min": 1, "max": 65535}),
            }
        }

    RETURN_TYPES = ("STRING",)
    FUNCTION = "reach"
    CATEGORY = "examples"
    OUTPUT_NODE = True

    def reach(self, host, port):
        try:
            socket.create_connection((host, port), timeout=3).close()
        except OSError as error:
            raise RuntimeError(f"network refused: {host}:{port}: {type(error).__name__}: {error}") from error
        return ("the network was reached",)


class ReachFile:
    """Reads or writes a file."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "path": ("STRING", {"default": "/etc/shadow"}),
                "access": (["read", "write"],),
            }
        }

    RETURN_TYPES = ("STRING",)
    FUNCTION = "reach"
    CATEGORY = "examples"
    OUTPUT_NODE = True

    def reach(self, path, access):
        try:
            if access == "read":
                Path(path).read_bytes()
            else:
                Path(path).write_bytes(b"written by out-of-bounds\n")
        except OSError as error:
            raise RuntimeError(f"path refused: {access} {path}: {type(error).__name__}: {error}") from error
        return (f"{path} was reached",)


NODE_CLASS_MAPPINGS = {"ReachNetwork": ReachNetwork, "ReachFile": ReachFile}
