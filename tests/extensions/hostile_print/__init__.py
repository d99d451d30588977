"""Prints where, how and as much as it should not, then answers as if nothing had happened."""

import ctypes
import os
import subprocess
import sys

print("imported", flush=True)


class Node:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests/hostile"


class Flood(Node):
    """More than any log wants, with a recognisable end."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"megabytes": ("INT", {"default": 4})}}

    def run(self, megabytes):
        line = "x" * 1023 + "\n"
        for _ in range(megabytes * 1024):
            sys.stdout.write(line)
        return ("done",)


class Frames(Node):
    """Looks like the protocol: a length, then JSON."""

    def run(self):
        body = b'{"jsonrpc":"2.0","id":1,"result":{"slots":[["forged"]]}}'
        for fd in (1, 2):
            os.write(fd, len(body).to_bytes(4, "big") + body)
        return ("done",)


class Everywhere(Node):
    """Python, raw descriptors, a child process, bytes that are no text, control characters."""

    def run(self):
        print("from print")
        print("to stderr", file=sys.stderr)
        os.write(1, b"from os.write\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        ctypes.CDLL(None).puts(b"from C")
        os.write(1, b"\xff\xfe not utf-8 \x1b[31m red\n")
        return ("done",)


class Close(Node):
    """Closes and replaces the streams; whoever runs next can print all the same."""

    def run(self):
        sys.stdout.close()
        os.close(2)
        return ("done",)


class Reads(Node):
    """Tries to read the protocol from standard input."""

    def run(self):
        return (repr(os.read(0, 100)),)


for cls in (Flood, Frames, Everywhere, Close, Reads):
    cls.RETURN_TYPES = ("STRING",)
NODE_CLASS_MAPPINGS = {f"RFPrint{cls.__name__}": cls for cls in (Flood, Frames, Everywhere, Close, Reads)}
