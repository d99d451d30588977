"""Routes, prompt handlers and node replacements of a tenant's extensions, under their policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.extension_errors import ExtensionUnknownError, RoutesOffError
from engine.extensions import ExtensionRegistry
from policies import LOCAL_TENANT, ExtensionName, TenantId
from tests.unit.extensions.stand_ins import FakeSandboxes, loaded
from tests.unit.extensions.test_extensions import House

pytestmark = pytest.mark.anyio
ROUTES = (("GET", "/x/{name}"), ("POST", "/x"), ("GET", "/{all:.*}"))
OWN_ROUTES = {"greedy": (("GET", "/{name}/info"),)}


class Serving(FakeSandboxes):
    """Each pack has the same routes."""

    async def acquire(self, tenant: TenantId, extension: ExtensionName):  # type: ignore[no-untyped-def]
        session = await super().acquire(tenant, extension)
        if extension != "core":
            session.loaded = loaded(
                *[node.class_type for node in session.loaded.nodes],
                routes=OWN_ROUTES.get(extension, ROUTES),
                prompt_handlers=1,
            )
        return session


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr("tests.unit.extensions.test_extensions.FakeSandboxes", Serving)
    made = House(tmp_path.resolve())
    made.policies.directory.mkdir(parents=True, exist_ok=True)
    return made


def allow(house: House, *names: str, routes: bool = True) -> None:
    for name in names:
        (house.policies.directory / f"{name}.yaml").write_text(f"routes: {str(routes).lower()}\n")


async def add(registry: ExtensionRegistry, house: House, *names: str) -> None:
    for name in names:
        await registry.add(LOCAL_TENANT, house.pack(name, f"# nodes: {name.upper()}"))


async def test_routes_are_off_unless_the_policy_says_otherwise_and_an_edit_holds_at_once(
    house: House,
) -> None:
    async with house.open() as registry:
        await add(registry, house, "a")
        sites = registry.sites
        assert await sites.serving(LOCAL_TENANT, "GET", "/x/1") is None
        assert await sites.prompt_handlers(LOCAL_TENANT) == []
        with pytest.raises(RoutesOffError, match="does not allow") as caught:
            await sites.check(LOCAL_TENANT, ExtensionName("a"))
        assert "'routes: true' in a.yaml" in caught.value.hint
        (note,) = (await registry.get(LOCAL_TENANT, ExtensionName("a"))).notes
        assert note.startswith("it registers 3 HTTP route(s) and 1 prompt handler(s), which its policy")
        allow(house, "a")
        assert await sites.serving(LOCAL_TENANT, "GET", "/x/1") == ("a", "/x/1")
        assert await sites.serving(LOCAL_TENANT, "GET", "/api/x/1") == ("a", "/x/1")
        assert await sites.prompt_handlers(LOCAL_TENANT) == ["a"]
        await sites.check(LOCAL_TENANT, ExtensionName("a"))
        assert (await registry.get(LOCAL_TENANT, ExtensionName("a"))).notes == ()
        allow(house, "a", routes=False)
        assert await sites.serving(LOCAL_TENANT, "GET", "/x/1") is None


async def test_a_route_that_begins_with_a_variable_answers_where_no_other_does(house: House) -> None:
    allow(house, "a", "greedy")
    async with house.open() as registry:
        await add(registry, house, "greedy", "a")
        sites = registry.sites
        assert await sites.serving(LOCAL_TENANT, "GET", "/x/info") == ("a", "/x/info")
        assert await sites.serving(LOCAL_TENANT, "GET", "/api/x/info") == ("a", "/x/info")
        assert await sites.serving(LOCAL_TENANT, "GET", "/y/info") == ("greedy", "/y/info")
        assert await sites.serving(LOCAL_TENANT, "GET", "/api/y/info") == ("greedy", "/y/info")
        assert await sites.serving(LOCAL_TENANT, "GET", "/ringfence/info") is None
        assert await sites.serving(LOCAL_TENANT, "GET", "/y/other") is None
        allow(house, "greedy", routes=False)
        assert await sites.serving(LOCAL_TENANT, "GET", "/y/info") is None


async def test_the_first_that_registered_a_path_answers_and_the_other_is_named(house: House) -> None:
    allow(house, "a", "b")
    async with house.open() as registry:
        await add(registry, house, "b", "a")
        assert await registry.sites.serving(LOCAL_TENANT, "POST", "/x") == ("b", "/x")
        notes = (await registry.get(LOCAL_TENANT, ExtensionName("a"))).notes
        assert len(notes) == 2
        assert notes[1] == (
            "route POST '/x' is answered by extension 'b', which was added before; this one's is below "
            "/ringfence/v1/extensions/a/routes"
        )
        assert (await registry.get(LOCAL_TENANT, ExtensionName("b"))).notes == ()
        allow(house, "b", routes=False)
        assert await registry.sites.serving(LOCAL_TENANT, "POST", "/x") == ("a", "/x")


async def test_nothing_answers_for_another_tenant_or_a_path_of_everybody(house: House) -> None:
    allow(house, "a")
    async with house.open() as registry:
        await add(registry, house, "a")
        assert await registry.sites.serving(TenantId("other"), "GET", "/x/1") is None
        assert await registry.sites.serving(LOCAL_TENANT, "GET", "/anything") is None
        with pytest.raises(ExtensionUnknownError):
            await registry.sites.check(TenantId("other"), ExtensionName("a"))


async def test_routes_and_handlers_are_known_after_a_restart_without_a_sandbox(house: House) -> None:
    allow(house, "a", "b")
    async with house.open() as registry:
        await add(registry, house, "a", "b")
    async with house.open() as registry:
        assert await registry.sites.serving(LOCAL_TENANT, "GET", "/x/1") == ("a", "/x/1")
        assert await registry.sites.prompt_handlers(LOCAL_TENANT) == ["a", "b"]
        assert house.sandboxes.started == []


async def test_a_pack_with_routes_and_no_nodes_is_ready(house: House) -> None:
    async with house.open() as registry:
        info = await registry.add(LOCAL_TENANT, house.pack("a", "# nodes:"))
        assert (info.state, info.node_count) == ("ready", 0)


async def test_a_removed_pack_answers_nothing(house: House) -> None:
    allow(house, "a")
    async with house.open() as registry:
        await add(registry, house, "a")
        await registry.remove(LOCAL_TENANT, ExtensionName("a"))
        assert await registry.sites.serving(LOCAL_TENANT, "GET", "/x/1") is None
