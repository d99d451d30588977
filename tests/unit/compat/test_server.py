"""Routes are noted; what does not exist in a sandbox says so by name."""

import pytest

from runtime.compat import server
from runtime.sdk import registry


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


@pytest.mark.parametrize("name", ["prompt_queue", "loop", "user_manager", "trigger_on_prompt"])
def test_what_is_not_there_is_an_attribute_error_with_its_name(name):
    assert getattr(server.PromptServer.instance, name, None) is None
    with pytest.raises(AttributeError, match=f"PromptServer.instance.{name}"):
        getattr(server.PromptServer.instance, name)


def test_packs_find_the_application_directory_through_the_server(child):
    code = """
    import inspect, os, server, folder_paths
    print(os.path.dirname(inspect.getfile(server.PromptServer)) == folder_paths.base_path, server.web.Response.__name__)
    """
    assert child(code) == "True Response"


def test_prompt_handlers_are_accepted():
    server.PromptServer.instance.add_on_prompt_handler(lambda body: body)
    assert "custom_nodes_from_web" in server.PromptServer.instance.supports
