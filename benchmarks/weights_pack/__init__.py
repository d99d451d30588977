"""Nodes that hold a file of weights for as long as their sandbox lives. They run in a sandbox."""

from comfy_api.latest import ComfyExtension, io

HELD = {}


def node(name, execute):
    def define_schema(cls):
        return io.Schema(
            node_id=name,
            category="bench",
            inputs=[io.String.Input("file")],
            outputs=[io.Float.Output("number")],
            not_idempotent=True,
        )

    return type(
        name, (io.ComfyNode,), {"define_schema": classmethod(define_schema), "execute": classmethod(execute)}
    )


def nothing(cls, file):
    """Torch, and nothing of the file."""
    import torch

    return io.NodeOutput(float(torch.ones(1)))


def hold(cls, file):
    HELD.update(cls.resources.get(io.TorchDictFolderFilename("loras", file)))
    return io.NodeOutput(float(len(HELD)))


def read(cls, file):
    """Every number of them, so that each page is there."""
    return io.NodeOutput(sum(float(tensor.sum()) for tensor in HELD.values()))


class Weights(ComfyExtension):
    async def get_node_list(self):
        return [node("BenchTorch", nothing), node("BenchHold", hold), node("BenchRead", read)]


def comfy_entrypoint():
    return Weights()
