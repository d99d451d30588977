"""The pack that the contract suite runs in every kind of sandbox."""

import os
import sys
import time

import torch


class Any(str):
    def __ne__(self, other):
        return False


ANY = Any("*")


def node(function, inputs, outputs=(ANY,), **more):
    """A V1 class around a function."""
    fields = {
        "INPUT_TYPES": classmethod(lambda cls: {"required": dict.fromkeys(inputs, (ANY,))}),
        "RETURN_TYPES": outputs,
        "FUNCTION": "run",
        "CATEGORY": "contract",
        "run": staticmethod(function),
        **more,
    }
    return type(function.__name__, (), fields)


def echo(value):
    return (value,)


def describe(value):
    kind = type(value).__name__
    return (f"{kind} {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}",)


def double_in_place(value):
    value *= 2
    return (value,)


def views(value):
    """Views of one tensor: sliced, transposed, expanded."""
    return (value[1:, ::2], value.T, value[:1].expand(5, -1))


def fails(value):
    raise ValueError(f"no: {value}")


def leaves(value):
    os._exit(int(value))


def prints(value):
    print(value)
    sys.stderr.write("to stderr\n")
    os.write(1, b"past python\n")
    return (value,)


def progresses(value):
    from comfy.utils import ProgressBar

    bar = ProgressBar(int(value))
    for _ in range(int(value)):
        bar.update(1)
    return (value,)


def patient(value):
    from comfy.model_management import throw_exception_if_processing_interrupted

    print("waiting")
    while True:
        throw_exception_if_processing_interrupted()
        time.sleep(0.01)


def stubborn(value):
    print("waiting")
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass


def make_object(value):
    return (lambda: value,)


def use_object(value):
    return (value(),)


_held = []


def holds(value):
    """Keeps one input until the next comes."""
    _held[:] = [value]
    return (0,)


def full(value):
    return (torch.full((int(value),), 7, dtype=torch.uint8),)


_nodes = [echo, describe, double_in_place, fails, leaves, prints, progresses, patient, stubborn]
_nodes += [make_object, use_object, full, holds]
NODE_CLASS_MAPPINGS = {function.__name__: node(function, ["value"]) for function in _nodes}
NODE_CLASS_MAPPINGS["views"] = node(views, ["value"], (ANY, ANY, ANY))
NODE_CLASS_MAPPINGS["progresses"].OUTPUT_NODE = True
