"""Progress bars, the registry, the executing context, messages."""

import asyncio

import pytest
from PIL import Image

from runtime import wire
from runtime.compat import server
from runtime.compat.comfy import model_management, utils
from runtime.compat.comfy_api.latest import ComfyAPI, ComfyAPISync
from runtime.compat.comfy_execution.progress import ProgressHandler, get_progress_state
from runtime.compat.comfy_execution.utils import CurrentNodeContext, get_executing_context


def test_a_bar_reports_for_the_running_node(listening, call):
    bar = utils.ProgressBar(4)
    bar.update(3)
    bar.update(3)
    values = [
        (p["node_id"], p["value"], p["max"], p["legacy"]) for m, p in listening.said if m == wire.PROGRESS
    ]
    assert values == [("7", 3, 4, True), ("7", 4, 4, True)]


def test_a_preview_travels_encoded_and_small(listening, call):
    utils.ProgressBar(1).update_absolute(1, 1, ("JPEG", Image.new("RGBA", (64, 32)), 16))
    assert listening.published[0][:2] == b"\xff\xd8"
    assert listening.said[-1][1]["preview"]["format"] == "JPEG"


def test_an_interrupted_node_stops_at_its_bar(call):
    call.interrupted.set()
    with pytest.raises(model_management.InterruptProcessingException):
        utils.ProgressBar(2).update(1)
    assert model_management.processing_interrupted()


def test_a_pack_may_put_a_hook_of_its_own(monkeypatch, call):
    heard = []
    monkeypatch.setattr(
        utils, "PROGRESS_BAR_HOOK", lambda value, total, preview: heard.append((value, total))
    )
    utils.ProgressBar(5).update(2)
    assert heard == [(2, 5)]


def test_no_bar_hook_is_fine(monkeypatch):
    monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", None)
    utils.ProgressBar(5).update(2)


def test_the_api_reports_without_the_older_message(listening, call):
    ComfyAPISync().execution.set_progress(1, 2)
    asyncio.run(ComfyAPI().execution.set_progress(2, 2, node_id="9"))
    said = [(p["node_id"], p["value"], p["legacy"]) for m, p in listening.said if m == wire.PROGRESS]
    assert said == [("7", 1, False), ("9", 2, False)]


def test_the_api_needs_a_node():
    with pytest.raises(ValueError, match="node_id"):
        ComfyAPISync().execution.set_progress(1, 2)


def test_handlers_of_a_pack_hear_the_registry(listening, call):
    heard = []

    class Handler(ProgressHandler):
        def update_handler(self, node_id, value, max_value, state, prompt_id, image=None):
            heard.append((node_id, value, max_value, prompt_id))

    state = get_progress_state()
    state.register_handler(Handler("mine"))
    state.start_progress("7")
    state.update_progress("7", 1, 3)
    state.finish_progress("7")
    state.unregister_handler("mine")
    assert heard == [("7", 1, 3, "p")]


def test_the_context_names_the_call(call):
    assert get_executing_context() == ("p", "7", 0)
    with CurrentNodeContext("q", "8"):
        assert get_executing_context().node_id == "8"
    assert get_executing_context().node_id == "7"


def test_messages_and_text_reach_the_host(listening, call):
    instance = server.PromptServer.instance
    instance.send_sync("my.event", {"a": (1, 2)})
    asyncio.run(instance.send("other", {}, "client"))
    instance.send_progress_text("hello", 7)
    assert listening.said == [
        (wire.EVENT, {"event": "my.event", "data": {"a": [1, 2]}, "sid": None}),
        (wire.EVENT, {"event": "other", "data": {}, "sid": "client"}),
        (wire.TEXT, {"node_id": "7", "text": "hello"}),
    ]
    assert instance.last_node_id == "7"


def test_a_binary_preview_becomes_progress_with_a_picture(listening, call):
    instance = server.PromptServer.instance
    instance.send_sync(
        server.BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, ("PNG", Image.new("RGB", (4, 4)), None)
    )
    assert listening.published[0][:4] == b"\x89PNG"
    with pytest.raises(NotImplementedError, match="binary message 4"):
        instance.send_sync(server.BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA, b"")
