"""How builds reach the package index: what the operator said of it, and which network follows from that.

The usual variables of pip and uv count, and below them pip's own configuration files. Where an index is named, builds
reach its hosts and nothing else; where none is, the installer's built-in one has no name that we could hold them to.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox import INDEX_ONLY, IndexSettings, index_rules

AUTO: Final = "auto"
_BRIDGE: Final = "bridge"
_FILES: Final = (".config/pip/pip.conf", ".pip/pip.conf")
_PROXIES: Final = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
_LARGEST: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reach:
    """The network of builds, and why it is no narrower one; empty where it is."""

    network: str
    because: str = ""


def with_pip_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with what pip's configuration files say of the index where the environment says nothing."""
    found = dict(environment)
    if any(found.get(name) for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        return found
    said: dict[str, str] = {}
    for path in _pip_files(environment):
        said |= _global_section(path)
    for key, name in (("index-url", "PIP_INDEX_URL"), ("extra-index-url", "PIP_EXTRA_INDEX_URL")):
        # A folder of this machine could not be seen by a build.
        urls = [url for url in said.get(key, "").split() if url.startswith(("http://", "https://"))]
        if urls and not found.get(name):
            found[name] = " ".join(urls)
    return found


def reach_of(network: str, environment: Mapping[str, str]) -> Reach:
    """What ``RINGFENCE_BUILD_NETWORK`` comes to. ``environment`` holds pip's settings, too."""
    if network != AUTO:
        return Reach(network)
    index = IndexSettings.from_environment(environment)
    if not index_rules(index.environment).allowed:
        return Reach(
            _BRIDGE, "no setting names the package index (UV_DEFAULT_INDEX, PIP_INDEX_URL or pip's own files)"
        )
    if not any(index.environment.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        return Reach(_BRIDGE, "only a further package index is named (UV_INDEX), not the first one")
    proxy = next((name for name in _PROXIES if environment.get(name)), None)
    if proxy is not None:
        return Reach(
            _BRIDGE,
            f"{proxy} leads to the package index (name that proxy in RINGFENCE_EGRESS_PROXY, and set "
            f"RINGFENCE_BUILD_NETWORK to '{INDEX_ONLY}')",
        )
    return Reach(INDEX_ONLY)


def _pip_files(environment: Mapping[str, str]) -> list[Path]:
    """In the order in which a later one overrules those before."""
    named = environment.get("PIP_CONFIG_FILE")
    if named == "/dev/null":
        return []
    home = environment.get("HOME")
    files = [Path("/etc/pip.conf"), *(Path(home, name) for name in _FILES if home)]
    return [*files, *([Path(named)] if named else [])]


def _global_section(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(_LARGEST)
        parser = configparser.RawConfigParser()
        parser.read_string(text)
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}  # pip itself would say so; here it names no index
    return dict(parser["global"]) if parser.has_section("global") else {}
