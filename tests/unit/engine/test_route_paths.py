"""Which requests a pack's route may get, without running its patterns."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.route_paths import path_parts, read_route


def answers(route: str, path: str, *, method: str = "GET", asked: str = "GET") -> bool:
    found = read_route(method, route)
    return found is not None and found.answers(asked, path_parts(path))


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("/a", "/a"),
        ("/a/b", "/a/b"),
        ("/a/{x}", "/a/anything"),
        ("/a/{x}/c", "/a/b/c"),
        ("/a/{x}.png", "/a/cat.png"),
        ("/a%20b/c", "/a b/c"),
        ("/a/", "/a/"),
        ("/a/{x:.*}", "/a/"),
        ("/a/{x:.*}", "/a/b/c/d"),
        (r"/a/v{n:\d{1,3}}", "/a/v12"),
        (r"/a/{x}/{n:\d+}/c", "/a/b/7/c"),
        ("/api/a", "/api/a"),
        ("/Größe/{x}", "/Größe/7"),
    ],
)
def test_a_route_may_get_what_aiohttp_would_give_it(route: str, path: str) -> None:
    assert answers(route, path)


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("/a", "/a/"),
        ("/a", "/A"),
        ("/a", "/ab"),
        ("/a/{x}", "/a"),
        ("/a/{x}", "/a/"),
        ("/a/{x}", "/a/b/c"),
        ("/a/{x}/c", "/a//c"),
        ("/a/{x:.*}", "/a"),
        ("/a/{x:.*}", "/b/c"),
        (r"/a/v{n:\d+}", "/a/w1"),
    ],
)
def test_a_route_gets_nothing_else(route: str, path: str) -> None:
    assert not answers(route, path)


@pytest.mark.parametrize(
    "route",
    [
        "/", "", "a", "//a", "/{x}", "/{x:.*}", "/x{rest:.*}", "/{x}/", "/{x}/{y}", "/{x:.*}/b",
        "/{x}/b{y:.*}", "/ringfence/v1/status", "/internal/logs",
        "/healthz", "/metrics", "/ws", "/api", "/api/", "/api/{x}", "/api/{x:.*}", "/api/ringfence/v1/status",
        "/a\n", "/a/" + "b" * 1100,
    ],
)  # fmt: skip
def test_a_route_that_would_take_everybodys_paths_is_none(route: str) -> None:
    assert read_route("GET", route) is None


@pytest.mark.parametrize(
    ("route", "path", "expected"),
    [
        ("/{x}/mine", "/any/mine", True),
        ("/{x}.json/mine", "/any/mine", True),
        ("/{x}/mine/{y}", "/any/mine/b", True),
        ("/{x}/mine/{y:.*}", "/any/mine/b/c", True),
        ("/{x}/mine", "/any/other", False),
        ("/{x}/mine", "//mine", False),
        ("/{x}/mine", "/api/mine", False),
        ("/{x}/mine", "/ringfence/mine", False),
        ("/{x}/v1/{y:.*}", "/ringfence/v1/tokens", False),
        ("/{x}/mine", "/internal/mine", False),
        ("/{x}/mine", "/ws/mine", False),
    ],
)
def test_a_route_that_begins_with_a_variable_comes_last_and_gets_nothing_of_the_servers(
    route: str, path: str, expected: bool
) -> None:
    found = read_route("GET", route)
    assert found is not None
    assert found.is_last
    assert found.answers("GET", path_parts(path)) is expected
    assert read_route("STATIC", route) is None


def test_methods_are_compared_as_in_aiohttp() -> None:
    assert answers("/a", "/a", method="GET", asked="HEAD")
    assert answers("/a", "/a", method="*", asked="DELETE")
    assert not answers("/a", "/a", method="GET", asked="POST")
    assert not answers("/a", "/a", method="POST", asked="HEAD")


def test_a_folder_takes_what_is_below_it_to_read() -> None:
    assert answers("/files", "/files/a/b.png", method="STATIC")
    assert answers("/my/files/", "/my/files/a", method="STATIC")
    assert answers("/files", "/files/a", method="STATIC", asked="HEAD")
    assert not answers("/files", "/files/a", method="STATIC", asked="POST")
    assert not answers("/files", "/filesystem/a", method="STATIC")


def test_a_pattern_made_to_take_long_takes_no_time() -> None:
    began = time.thread_time()
    assert answers("/a/{x:" + "(a+)+" * 100 + "}", "/a/" + "a" * 5000 + "!")
    assert time.thread_time() - began < 0.5


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(["GET", "*", "STATIC", "POST", ""]))
def test_whatever_a_pack_registers_is_read_without_an_error(route: str, path: str, method: str) -> None:
    for text in (route, f"/{route}", f"/a/{route}", f"/a{{{route}"):
        found = read_route(method, text)
        if found is not None:
            assert found.parts[0] or found.is_last
            found.answers("GET", path_parts(f"/{path}"))
