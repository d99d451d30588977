"""Tries every way out, and says how far each got."""

import socket


def attempt(function):
    try:
        function()
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return "reached"


def interfaces():
    try:
        return ",".join(sorted(name for _, name in socket.if_nameindex()))
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        probe.connect(address)


class NetworkProbe:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"host": ("STRING", {"default": "1.1.1.1"}), "port": ("INT", {"default": 80})}}

    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/hostile"

    def run(self, host, port):
        outcome = {
            "tcp": attempt(lambda: connect(socket.AF_INET, (host, port))),
            "dns": attempt(lambda: socket.getaddrinfo("example.com", 80)),
            "gateway": attempt(lambda: connect(socket.AF_INET, ("172.17.0.1", port))),
            "interfaces": interfaces(),
        }
        lines = [f"{name}: {text}" for name, text in outcome.items()]
        return {"ui": {"text": lines}, "result": ("\n".join(lines),)}


class Download:
    """Lets the network error escape, as most packs do."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"host": ("STRING", {"default": "1.1.1.1"}), "port": ("INT", {"default": 80})}}

    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/hostile"

    def run(self, host, port):
        connect(socket.AF_INET, (host, port))
        return ("reached",)


NODE_CLASS_MAPPINGS = {"RFNetworkProbe": NetworkProbe, "RFDownload": Download}
