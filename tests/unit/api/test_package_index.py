"""Which network builds get follows from what the operator said of the package index, and is never wider in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.launching import build_reach, builds_of
from api.package_index import Reach, reach_of, with_pip_settings
from tests.unit.api.conftest import make_settings

INDEX = "https://index.example/simple"


@pytest.mark.parametrize(
    "environment",
    [
        {"UV_DEFAULT_INDEX": INDEX},
        {"UV_INDEX_URL": INDEX},
        {"PIP_INDEX_URL": INDEX, "PIP_EXTRA_INDEX_URL": "https://more.example/simple"},
    ],
)
def test_builds_are_walled_in_where_the_index_is_named(environment: dict[str, str]) -> None:
    assert reach_of("auto", environment) == Reach("index")


@pytest.mark.parametrize(
    ("environment", "because"),
    [
        ({}, "no setting names the package index"),
        ({"UV_DEFAULT_INDEX": "/srv/wheels"}, "no setting names the package index"),
        ({"UV_INDEX": INDEX}, "only a further package index is named"),
        ({"UV_DEFAULT_INDEX": INDEX, "https_proxy": "http://proxy.example:3128"}, "https_proxy leads to"),
    ],
)
def test_where_they_are_not_the_reason_is_said(environment: dict[str, str], because: str) -> None:
    found = reach_of("auto", environment)
    assert found.network == "bridge"
    assert because in found.because


@pytest.mark.parametrize("network", ["index", "bridge", "host"])
def test_the_operators_word_counts_as_it_is(network: str) -> None:
    assert reach_of(network, {"UV_DEFAULT_INDEX": INDEX}) == Reach(network)
    assert reach_of(network, {}) == Reach(network)


def test_pips_own_files_name_the_index_where_the_environment_does_not(tmp_path: Path) -> None:
    file = tmp_path / ".config" / "pip" / "pip.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f"[global]\nindex-url = {INDEX}\nextra-index-url =\n    /srv/wheels\n    {INDEX}2\n")
    home = {"HOME": str(tmp_path)}
    found = with_pip_settings(home)
    assert (found["PIP_INDEX_URL"], found["PIP_EXTRA_INDEX_URL"]) == (INDEX, f"{INDEX}2")
    assert with_pip_settings({**home, "UV_DEFAULT_INDEX": "x"}) == {**home, "UV_DEFAULT_INDEX": "x"}
    assert "PIP_INDEX_URL" not in with_pip_settings({**home, "PIP_CONFIG_FILE": "/dev/null"})


@pytest.mark.parametrize(
    "text", ["", "[global", "[install]\nindex-url = https://x\n", "[global]\nindex-url = /srv\n", "\0"]
)
def test_a_file_of_pip_that_names_no_index_is_as_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(text)
    environment = {"PIP_CONFIG_FILE": str(file), "HOME": str(tmp_path)}
    assert "PIP_INDEX_URL" not in with_pip_settings(environment)


def test_host_and_launcher_come_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", INDEX)
    settings = make_settings(tmp_path)
    assert builds_of(settings).network_mode == build_reach(settings).network == "index"
    assert builds_of(settings).open_because == ""


def test_builds_know_whether_somebody_chose_their_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    fallen_back = builds_of(make_settings(tmp_path))
    assert fallen_back.network_mode == "bridge"
    assert "no setting names the package index" in fallen_back.open_because
    chosen = builds_of(make_settings(tmp_path, build_network="bridge"))
    assert (chosen.network_mode, chosen.open_because) == ("bridge", "")
