"""A pack written for a draft of the V3 API: DEFINE_SCHEMA instead of define_schema."""

from comfy_api.latest import ComfyExtension, io


class Shout(io.ComfyNode):
    @classmethod
    def DEFINE_SCHEMA(cls):
        return io.Schema(
            node_id="RFShout",
            category="tests/friendly",
            inputs=[io.String.Input("text", default="")],
            outputs=[io.String.Output("shouted")],
        )

    @classmethod
    def execute(cls, text):
        return io.NodeOutput(text.upper())


class DraftV3(ComfyExtension):
    async def get_node_list(self):
        return [Shout]


def comfy_entrypoint():
    return DraftV3()
