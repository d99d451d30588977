"""V1 nodes that steer execution: lists, lazy inputs, expansion, blockers, dynamic sockets, the any type."""

from comfy_execution.graph import ExecutionBlocker
from comfy_execution.graph_utils import GraphBuilder


class AnyType(str):
    def __ne__(self, other):
        return False

    __hash__ = str.__hash__


class AnyName(dict):
    """Claims to hold every input name."""

    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        return ("*", {})


ANY = AnyType("*")


class MakeList:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {"default": 3, "min": 0})}}

    RETURN_TYPES = ("INT", "INT")
    OUTPUT_IS_LIST = (True, False)
    FUNCTION = "run"
    CATEGORY = "tests/flow"

    def run(self, count):
        return (list(range(count)), count)


class SumList:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"values": ("INT", {"forceInput": True})},
            "optional": {"scale": ("INT", {"default": 1})},
        }

    INPUT_IS_LIST = True
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "tests/flow"

    def run(self, values, scale=(1,)):
        return (sum(values) * scale[0],)


class Pair:
    """Mapped over lists: shorter lists repeat their last item."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": (ANY,), "b": (ANY,)}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests/flow"

    def run(self, a="nothing", b="nothing"):
        return (f"{a}/{b}",)


class LazySwitch:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "first": ("BOOLEAN", {"default": True}),
                "on_true": (ANY, {"lazy": True}),
                "on_false": (ANY, {"lazy": True}),
            }
        }

    RETURN_TYPES = (ANY,)
    FUNCTION = "run"
    CATEGORY = "tests/flow"

    def check_lazy_status(self, first, on_true=None, on_false=None):
        wanted = "on_true" if first else "on_false"
        return [wanted] if (on_true if first else on_false) is None else []

    def run(self, first, on_true=None, on_false=None):
        return (on_true if first else on_false,)


class Block:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"value": (ANY,), "block": ("BOOLEAN", {"default": True})},
            "optional": {"message": ("STRING", {"default": ""})},
        }

    RETURN_TYPES = (ANY,)
    FUNCTION = "run"
    CATEGORY = "tests/flow"

    def run(self, value, block, message=""):
        return (ExecutionBlocker(message or None) if block else value,)


class Expand:
    """Becomes ``count`` RFAdd nodes in a row."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"start": ("INT", {"default": 0}), "count": ("INT", {"default": 2, "min": 0})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "tests/flow"

    def run(self, start, count):
        if count == 0:
            return (start,)
        graph = GraphBuilder()
        value = start
        for _ in range(count):
            value = graph.node("RFAdd", a=value, b=1).out(0)
        return {"result": (value,), "expand": graph.finalize()}


class Dynamic:
    """Takes whatever sockets the browser added."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "optional": AnyName()}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests/flow"

    def run(self, **inputs):
        return (",".join(f"{name}={inputs[name]}" for name in sorted(inputs)),)


class Kwargs:
    """Takes any argument but declares none: gets undeclared links, not undeclared constants."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests/flow"

    def run(self, **inputs):
        return (",".join(sorted(inputs)),)


class RawLink:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"link": (ANY, {"rawLink": True})}, "hidden": {"graph": "DYNPROMPT"}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests/flow"

    def run(self, link, graph=None):
        return (graph.get_node(link[0])["class_type"],)


NODE_CLASS_MAPPINGS = {
    f"RF{cls.__name__}": cls
    for cls in (MakeList, SumList, Pair, LazySwitch, Block, Expand, Dynamic, Kwargs, RawLink)
}
