"""Routes and prompt handlers of a pack in the whole stack: served from its sandbox, by a policy that allows them."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.e2e.comfy import Comfy, node, succeeded
from tests.e2e.conftest import ROOT, Stack

PACK = ROOT / "tests" / "extensions" / "routes"
OWN = "/ringfence/v1/extensions/routes/routes"


@pytest.fixture(scope="module")
def routes(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    policy = tmp_path_factory.mktemp("policy") / "routes.yaml"
    policy.write_text("routes: true\ntimeouts: {call: 20s}\n")
    stack.ringfence("extension", "add", str(PACK), "--policy", str(policy))
    return "routes"


@pytest.mark.parametrize("prefix", ["", "/api", OWN])
def test_a_route_answers_at_its_path_below_api_and_below_its_own_prefix(
    comfy: Comfy, routes: str, prefix: str
) -> None:
    answer = comfy.http.get(f"{prefix}/rf/hello?name=a%26b", headers={"Cookie": "secret=1"})
    assert (answer.status_code, answer.json()) == (200, {"hello": "a&b", "path": "/rf/hello"})
    assert answer.headers["x-ringfence-extension"] == routes
    assert answer.headers["content-security-policy"].startswith("sandbox;")


def test_bodies_of_any_size_go_both_ways(comfy: Comfy, routes: str) -> None:
    answer = comfy.http.put("/rf/put", content=b"y" * 5_000_000).json()
    assert (answer["bytes"], answer["start"]) == (5_000_000, "y" * 20)
    assert comfy.http.get("/rf/large?bytes=3000000").content == b"x" * 3_000_000
    form = comfy.http.post("/rf/form", files={"image": ("cat.png", b"...")}, data={"a": "1"}).json()
    assert form == {"a": "1", "image": "cat.png"}


def test_the_pack_gets_no_cookie_and_no_token_and_the_browser_none_of_the_packs(
    comfy: Comfy, routes: str
) -> None:
    sent = {"Cookie": "secret=1", "Authorization": "Bearer secret", "X-Requested-With": "test"}
    headers = comfy.http.post("/rf/echo", headers=sent, content=b"").json()["headers"]
    assert "x-requested-with: test" in headers
    assert "secret" not in str(headers)
    answer = comfy.http.get("/rf/headers")
    assert not answer.headers.keys() & {"set-cookie", "x-own", "service-worker-allowed"}
    assert comfy.http.get("/rf/script").headers["content-type"].startswith("text/plain")
    assert "location" not in comfy.http.get("/rf/leave?to=https://elsewhere.example/").headers
    assert comfy.http.get("/rf/leave?to=/rf/hello").headers["location"] == "/rf/hello"


def test_the_servers_own_routes_win_and_unknown_paths_stay_404(comfy: Comfy, routes: str) -> None:
    assert "devices" in comfy.get("/system_stats")
    assert comfy.http.get("/no/such/path").status_code == 404
    assert (
        comfy.http.get(f"{OWN}/no/such/path").text == "everything"
    )  # its own catch-all, under its own prefix


def test_a_route_that_breaks_off_or_raises_is_an_error_and_the_next_one_works(
    comfy: Comfy, routes: str
) -> None:
    assert comfy.http.get("/rf/raises").status_code == 500
    with pytest.raises(httpx2.RemoteProtocolError):  # cut off: nobody takes a part for the whole
        comfy.http.get("/rf/breaks")
    assert comfy.http.get("/rf/view").text == "a view"


def test_a_prompt_handler_changes_a_prompt_before_it_is_validated(comfy: Comfy, routes: str) -> None:
    outputs = succeeded(comfy.run({"1": node("RFOldName", text="renamed by the pack")}))
    assert outputs["1"]["text"] == ["renamed by the pack"]


def test_without_the_policy_the_same_pack_serves_nothing_and_the_list_says_so(
    stack: Stack, comfy: Comfy, tmp_path: Path
) -> None:
    silent = tmp_path / "silent_routes"
    silent.mkdir()
    code = (PACK / "__init__.py").read_text().replace("/rf/", "/silent/").replace("RFRoutes", "RFSilent")
    (silent / "__init__.py").write_text(code.replace("routes.static", "# routes.static"))
    stack.ringfence("extension", "add", str(silent))
    assert comfy.http.get("/silent/hello").status_code == 404
    refused = comfy.http.get("/ringfence/v1/extensions/silent_routes/routes/silent/hello")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "routes-off")
    (info,) = [
        info
        for info in comfy.get("/ringfence/v1/extensions")["extensions"]
        if info["name"] == "silent_routes"
    ]
    assert any("its policy does not allow" in note for note in info["notes"])


def test_a_node_learns_the_client_that_queued_its_prompt(comfy: Comfy, routes: str) -> None:
    with comfy.events() as events:
        prompt_id = comfy.queue({"7": node("RFWho")}, events)
        events.until_ended(prompt_id)
        assert succeeded(comfy.entry(prompt_id))["7"]["told"] == [events.client_id, "7", True]
