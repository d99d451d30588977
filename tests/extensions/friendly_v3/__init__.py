"""A well-behaved V3 pack."""

import asyncio

from comfy_api.latest import ComfyExtension, io

loaded = []


class Scale(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RFScale",
            display_name="Scale (tests)",
            category="tests/friendly",
            inputs=[
                io.Image.Input("image"),
                io.Float.Input("factor", default=0.5, min=0.0, max=10.0),
                io.Int.Input("times", default=1, optional=True),
            ],
            outputs=[io.Image.Output("scaled"), io.String.Output("node")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image, factor, times=1):
        return io.NodeOutput(image * factor**times, cls.hidden.unique_id)

    @classmethod
    def validate_inputs(cls, factor, **kwargs):
        return "a factor of 4 is not allowed" if factor == 4 else True

    @classmethod
    def fingerprint_inputs(cls, factor, **kwargs):
        return ("scale", factor)


class Wait(io.ComfyNode):
    """A coroutine node; two of them overlap."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RFWait",
            category="tests/friendly",
            inputs=[io.Float.Input("seconds", default=0.0, min=0.0, max=60.0)],
            outputs=[io.Float.Output("waited")],
        )

    @classmethod
    async def execute(cls, seconds):
        await asyncio.sleep(seconds)
        return io.NodeOutput(seconds)


class Report(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RFReportV3",
            category="tests/friendly",
            inputs=[io.AnyType.Input("value")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, value):
        return io.NodeOutput(ui={"text": [str(value)]})


class FriendlyV3(ComfyExtension):
    async def on_load(self):
        asyncio.get_running_loop()
        loaded.append(True)

    async def get_node_list(self):
        assert loaded, "on_load comes first"
        return [Scale, Wait, Report]


async def comfy_entrypoint():
    return FriendlyV3()
