"""V3 nodes at the edges: dynamic inputs, a validator that reports progress, coroutines that fail."""

import json

import comfy.utils
from comfy_api.latest import ComfyExtension, io


class Dynamic(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        value = io.Int.Input("v", lazy=True)
        return io.Schema(
            node_id="RFDynamicV3",
            category="tests/odd",
            inputs=[
                io.DynamicCombo.Input(
                    "mode",
                    options=[
                        io.DynamicCombo.Option("plain", []),
                        io.DynamicCombo.Option("scale", [io.Int.Input("factor", default=1, min=0, max=5)]),
                    ],
                ),
                io.Autogrow.Input(
                    "values", template=io.Autogrow.TemplatePrefix(value, prefix="v", min=1, max=5)
                ),
            ],
            outputs=[io.String.Output("seen")],
        )

    @classmethod
    def check_lazy_status(cls, mode, values):
        return [name for value, name in values.values() if value is None]

    @classmethod
    def execute(cls, **inputs):
        return io.NodeOutput(json.dumps(inputs, sort_keys=True))


class TalkativeValidator(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RFTalkativeValidator",
            category="tests/odd",
            inputs=[io.Int.Input("n", default=0)],
            outputs=[io.Int.Output()],
        )

    @classmethod
    def validate_inputs(cls, n):
        comfy.utils.ProgressBar(1).update_absolute(1, 1)
        return True

    @classmethod
    def execute(cls, n):
        return io.NodeOutput(n)


class FailAsync(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RFFailAsync",
            category="tests/odd",
            inputs=[io.Int.Input("n", default=0)],
            outputs=[io.Int.Output()],
        )

    @classmethod
    async def execute(cls, n):
        if n:
            raise ValueError(n)
        return io.NodeOutput(n)


class OddV3(ComfyExtension):
    async def get_node_list(self):
        return [Dynamic, TalkativeValidator, FailAsync]


async def comfy_entrypoint():
    return OddV3()
