"""Nodes that wait for one another, so that tests need no clock: a gate is opened by name and waited for by name.

A waiting node reports progress 0 of 1 when it has started. Every wait ends after ``LIMIT_S`` with an error.
"""

import asyncio
import threading
import time

import comfy.model_management
import comfy.utils

LIMIT_S = 30
gates = {}
lock = threading.Lock()


def gate(name):
    with lock:
        return gates.setdefault(name, threading.Event())


class Node:
    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/gates"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {"default": "gate"})}}

    @classmethod
    def IS_CHANGED(cls, name):
        return float("nan")


class Wait(Node):
    """Waits on the thread of synchronous nodes; notices an interruption."""

    def run(self, name):
        comfy.utils.ProgressBar(1).update_absolute(0, 1)
        end = time.monotonic() + LIMIT_S
        while not gate(name).wait(0.005):
            comfy.model_management.throw_exception_if_processing_interrupted()
            if time.monotonic() > end:
                raise TimeoutError(f"gate {name} was never opened")
        return (name,)


class WaitAsync(Node):
    async def run(self, name):
        comfy.utils.ProgressBar(1).update_absolute(0, 1)
        end = time.monotonic() + LIMIT_S
        while not gate(name).is_set():
            await asyncio.sleep(0.005)
            if time.monotonic() > end:
                raise TimeoutError(f"gate {name} was never opened")
        return (name,)


class Open(Node):
    def run(self, name):
        gate(name).set()
        return (name,)


class OpenAsync(Node):
    async def run(self, name):
        gate(name).set()
        return (name,)


class OpenByValidation(Node):
    """Its validator opens the gate: validation must not wait for a running node."""

    @classmethod
    def VALIDATE_INPUTS(cls, name):
        gate(name).set()
        return True

    def run(self, name):
        return (name,)


class WaitInValidation(Node):
    """Its validator is a coroutine that waits."""

    @classmethod
    async def VALIDATE_INPUTS(cls, name):
        while not gate(name).is_set():  # noqa: ASYNC110 - the gate is a thread's, too
            await asyncio.sleep(0.005)
        return "opened"

    def run(self, name):
        return (name,)


NODE_CLASS_MAPPINGS = {
    f"RFGate{cls.__name__}": cls
    for cls in (Wait, WaitAsync, Open, OpenAsync, OpenByValidation, WaitInValidation)
}
