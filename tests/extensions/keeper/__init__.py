"""Nodes that keep state on the host and take files of weights from it."""

from comfy_api.latest import ComfyAPI, ComfyExtension, io


def node(name, execute, inputs=()):
    def define_schema(cls):
        return io.Schema(
            node_id=name,
            category="tests/keeper",
            inputs=[io.AnyType.Input(key, optional=True) for key in inputs],
            outputs=[io.AnyType.Output("value")],
            is_output_node=True,
            not_idempotent=True,
        )

    return type(
        name,
        (io.ComfyNode,),
        {
            "define_schema": classmethod(define_schema),
            "execute": classmethod(execute),
            "fingerprint_inputs": classmethod(lambda cls, **inputs: float("nan")),
        },
    )


def count(cls):
    cls.state.count = (cls.state.count or 0) + 1
    return io.NodeOutput(cls.state.count)


async def count_async(cls):
    cls.state["count"] = (cls.state["count"] or 0) + 1
    return io.NodeOutput(cls.state.get_value("count"))


def remember(cls, value=None):
    """Changes a list in place: that is kept as well."""
    if "seen" not in cls.state:
        cls.state.seen = []
    cls.state.seen.append(value)
    return io.NodeOutput(cls.state.seen)


def unset(cls):
    return io.NodeOutput(
        [cls.state.never, cls.state["never"], cls.state.get("never", 5), cls.state.pop("never")]
    )


def forget(cls):
    cls.state.count = 7
    was = cls.state.pop("count")
    del cls.state.other
    return io.NodeOutput([was, "count" in cls.state, cls.state.keys()])


def keep(cls, value=None):
    cls.state.kept = value
    return io.NodeOutput(cls.state.kept)


def keep_object(cls):
    cls.state.kept = {"list": [1, object()]}


def fail_after(cls, value=None):
    """Fails after a change inside what it keeps."""
    if "list" not in cls.state:
        cls.state.list = []
    cls.state.list.append(value)
    raise ValueError("on purpose")


def weights(cls, folder="loras", file="a.safetensors"):
    found = cls.resources.get(io.TorchDictFolderFilename(folder, file))
    return io.NodeOutput({name: tensor.tolist() for name, tensor in found.items()})


def weights_or(cls, folder="loras", file="a.safetensors"):
    return io.NodeOutput(cls.resources.get(io.TorchDictFolderFilename(folder, file), "the default"))


def spoil(cls, folder="loras", file="a.safetensors"):
    """Writes into what it got, and looks at it again."""
    key = io.TorchDictFolderFilename(folder, file)
    cls.resources.get(key)["w"].fill_(-1)
    return io.NodeOutput(cls.resources.get(key)["w"].tolist())


def ask(cls, value=None):
    """Asks for any path, past every helper."""
    from ringfence_runtime import wire
    from ringfence_runtime.sdk import host

    try:
        return io.NodeOutput(host.connected().request(wire.RESOURCE_GET, {"path": value}))
    except Exception as error:
        return io.NodeOutput(f"{error.code}: {error}")


def mapped(cls, file="a.safetensors"):
    """Holds the tensors and says how much of them this process shares: lines of its map of memory."""
    held = cls.resources.get(io.TorchDictFolderFilename("loras", file))
    total = sum(float(tensor.sum()) for tensor in held.values())
    with open("/proc/self/smaps") as smaps:
        blocks = smaps.read().split("\n")
    found, inside = {}, False
    for line in blocks:
        if "-" in line.split(" ")[0] and not line.split(" ")[0].endswith(":"):
            inside = "/ringfence/in/" in line or "/store/" in line
            continue
        if inside:
            key, _, rest = line.partition(":")
            if key in ("Rss", "Anonymous"):
                found[key] = found.get(key, 0) + int(rest.split()[0])
    return io.NodeOutput([total, found])


NODES = [
    node("RFCount", count),
    node("RFCountAsync", count_async),
    node("RFRemember", remember, ["value"]),
    node("RFUnset", unset),
    node("RFForget", forget),
    node("RFKeep", keep, ["value"]),
    node("RFKeepObject", keep_object),
    node("RFFailAfter", fail_after, ["value"]),
    node("RFWeights", weights, ["folder", "file"]),
    node("RFWeightsOr", weights_or, ["folder", "file"]),
    node("RFSpoil", spoil, ["folder", "file"]),
    node("RFAsk", ask, ["value"]),
    node("RFMapped", mapped, ["file"]),
]


class Keeper(ComfyExtension):
    async def on_load(self):
        mapping = [{"new_id": "value", "old_id": "thing"}]
        register = ComfyAPI().node_replacement.register
        for _ in range(2):
            await register(
                io.NodeReplace("RFRemember", "RFOldRemember", input_mapping=mapping, output_mapping=[])
            )

    async def get_node_list(self):
        return NODES


def comfy_entrypoint():
    return Keeper()
