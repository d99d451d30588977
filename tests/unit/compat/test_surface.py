"""Every name that three or more surveyed packs use is there: for real, or by name with a call that says so."""

import json

import pytest

from tests.compat.surface import table

_LOOK = """
import json, types
from tests.compat.surface import resolve, table
from runtime.compat._standins import NotProvidedError, is_stand_in

def state(name):
    try:
        found = resolve(name)
    except (ImportError, AttributeError) as error:
        return f"missing: {error}"
    if isinstance(found, types.ModuleType):
        return "by_name" if (found.__doc__ or "").startswith("Names only") else "provided"
    if not is_stand_in(found):
        return "None" if found is None and name not in MAY_BE_NONE else "provided"
    class Subclass(found):
        pass
    try:
        if found() is found:  # a node's object can be made; what it does cannot be called
            name += ".run"
            found().run()
    except NotProvidedError as error:
        return "by_name" if str(error).startswith(f"{name} needs a model runtime") else f"vague: {error}"
    return "it can be called"

# Outside of a node's call there is no client, in ComfyUI neither.
MAY_BE_NONE = {"server.PromptServer.instance.client_id"}
print(json.dumps({name: state(name) for names in table().values() for name in names}))
"""


def test_every_name_of_the_table_is_provided_or_refuses_by_its_full_name(child):
    found = json.loads(child(_LOOK))
    expected = {name: kind for kind, names in table().items() for name in names}
    assert {name: state for name, state in found.items() if state != expected[name]} == {}
    assert len(found) == 213


def test_the_table_is_sorted_by_how_many_packs_use_a_name():
    for names in table().values():
        assert list(names.values()) == sorted(names.values(), reverse=True)
        assert min(names.values()) >= 3


@pytest.mark.parametrize(
    "name",
    ["folder_paths.no_such_thing", "comfy.utils.no_such_thing", "nodes.NoSuchNode", "node_helpers.nothing"],
)
def test_a_name_that_comfyui_does_not_have_is_an_error_that_names_it(child, name):
    module, _, attribute = name.rpartition(".")
    code = f"""
    import importlib
    try:
        importlib.import_module({module!r}).{attribute}
    except AttributeError as error:
        print(error)
    """
    said = child(code)
    assert module in said
    assert attribute in said
