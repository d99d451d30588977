"""Routes are noted; what does not exist in a sandbox says so by name."""

import asyncio

import pytest

from runtime.compat import server
from runtime.compat._standins import NotProvidedError
from runtime.compat.comfy_api.latest._schema import NodeReplace
from runtime.sdk import host, paths, registry


def test_decorators_note_routes_and_leave_the_handler_alone():
    registry.take_routes()
    routes = server.PromptServer.instance.routes

    @routes.get("/x/{name}")
    async def handler(request):
        return request

    routes.post("/x", name="y")(handler)
    assert registry.take_routes() == [("GET", "/x/{name}"), ("POST", "/x")]
    assert handler.__name__ == "handler"
    assert [route.path for route in routes][-2:] == ["/x/{name}", "/x"]


def test_the_application_notes_routes_too():
    registry.take_routes()
    app = server.PromptServer.instance.app
    app.router.add_get("/a", None)
    app.router.add_static("/s", "/tmp")
    app.middlewares.append(object())
    assert registry.take_routes() == [("GET", "/a"), ("STATIC", "/s")]


@pytest.mark.parametrize("name", ["messages", "model_file_manager", "queue_updated", "client_session"])
def test_what_is_not_there_is_an_attribute_error_with_its_name(name):
    assert getattr(server.PromptServer.instance, name, None) is None
    with pytest.raises(AttributeError, match=f"PromptServer.instance.{name}"):
        getattr(server.PromptServer.instance, name)


@pytest.mark.parametrize(
    "name", ["app.cleanup_ctx", "app.router.resolve", "user_manager.get_users_file", "prompt_queue.history"]
)
def test_what_is_missing_deeper_down_is_named_in_full(name):
    with pytest.raises(AttributeError, match=f"PromptServer.instance.{name}"):
        eval(f"server.PromptServer.instance.{name}")


def test_the_loop_is_the_workers_and_missing_outside_of_one():
    with pytest.raises(AttributeError, match=r"PromptServer.instance.loop"):
        server.PromptServer.instance.loop  # noqa: B018
    loop = asyncio.new_event_loop()
    host.lend_loop(loop)
    try:
        assert server.PromptServer.instance.loop is loop
    finally:
        host.lend_loop(None)
        loop.close()


def test_the_queue_shows_the_running_call_and_nobody_elses(call):
    queue = server.PromptServer.instance.prompt_queue
    assert queue.get_tasks_remaining() == 1
    assert [entry[1] for entry in queue.currently_running.values()] == [call.prompt_id]
    assert queue.get_current_queue() == ([(0, "p", {}, {}, [])], [])
    assert server.PromptServer.instance.get_queue_info() == {"exec_info": {"queue_remaining": 1}}


@pytest.mark.parametrize("name", ["put", "wipe_queue", "get_history", "delete_queue_item"])
def test_asking_the_queue_for_more_names_what_was_asked(name):
    with pytest.raises(
        NotProvidedError, match=rf"PromptServer.instance.prompt_queue.{name} belongs to the host"
    ):
        getattr(server.PromptServer.instance.prompt_queue, name)()


def test_without_a_running_call_the_queue_is_empty():
    assert server.PromptServer.instance.prompt_queue.currently_running == {}


def test_a_users_file_lies_in_the_sandboxes_user_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "user", lambda: str(tmp_path))
    users = server.PromptServer.instance.user_manager
    assert users.get_request_user_id(None) == "default"
    assert users.get_request_user_filepath(None, "a/b.json") == str(tmp_path / "default/a/b.json")
    assert (tmp_path / "default/a").is_dir()
    assert users.get_request_user_filepath(None, "../../etc/passwd") is None


def test_prompt_handlers_change_a_prompt_in_turn_and_one_that_raises_is_left_out(monkeypatch, capsys):
    instance = server.PromptServer.instance
    monkeypatch.setattr(instance, "on_prompt_handlers", [])
    instance.add_on_prompt_handler(lambda body: {**body, "first": 1})
    instance.add_on_prompt_handler(lambda body: body["no such key"])
    instance.add_on_prompt_handler(lambda body: {**body, "last": 2})
    assert instance.trigger_on_prompt({"prompt": {}}) == {"prompt": {}, "first": 1, "last": 2}
    assert "KeyError" in capsys.readouterr().err


def test_a_node_replacement_is_noted_once_for_each_pair(monkeypatch):
    monkeypatch.setattr(registry, "node_replacements", [])
    manager = server.PromptServer.instance.node_replace_manager
    for _ in range(2):
        manager.register(NodeReplace("New", "Old", output_mapping=[{"new_idx": 1, "old_idx": 0}]))
    assert registry.node_replacements == manager.get_replacement("Old") == manager.as_dict()["Old"]
    assert registry.node_replacements == [
        {
            "new_node_id": "New",
            "old_node_id": "Old",
            "old_widget_ids": None,
            "input_mapping": None,
            "output_mapping": [{"new_idx": 1, "old_idx": 0}],
        }
    ]
    assert manager.has_replacement("Old")
    assert not manager.has_replacement("New")


@pytest.mark.parametrize(
    "wrong",
    [
        {"new_node_id": ""},
        {"old_widget_ids": [1]},
        {"input_mapping": [{"new_id": "a"}]},
        {"output_mapping": [{"new_idx": -1, "old_idx": 0}]},
    ],
)
def test_a_node_replacement_of_a_wrong_form_is_refused_by_name(wrong):
    fields = {"new_node_id": "New", "old_node_id": "Old", **wrong}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        server.PromptServer.instance.node_replace_manager.register(NodeReplace(**fields))


def test_the_application_keeps_what_packs_put_into_it():
    app = server.PromptServer.instance.app
    app["rf"] = 1
    assert app["rf"] == app.get("rf") == 1
    assert "rf" in app


def test_packs_find_the_application_directory_through_the_server(child):
    code = """
    import inspect, os, server, folder_paths
    print(os.path.dirname(inspect.getfile(server.PromptServer)) == folder_paths.base_path, server.web.Response.__name__)
    """
    assert child(code) == "True Response"


def test_prompt_handlers_are_accepted():
    server.PromptServer.instance.add_on_prompt_handler(lambda body: body)
    assert "custom_nodes_from_web" in server.PromptServer.instance.supports


def test_packs_that_ask_whether_routes_may_still_be_added_hear_yes():
    app = server.PromptServer.instance.app
    assert app.frozen is False
    assert app.router.frozen is False
