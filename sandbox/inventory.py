"""What an extension runs with: the packages of its environment and of the image, as read from the disk.

The files are strangers' (a wheel brings its own metadata): opened without following links, read to a bound, and every
text made safe. What the lock says is believed before what a package says of itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from email.parser import HeaderParser
from pathlib import Path
from typing import Final, Literal

from packaging.utils import canonicalize_name

from policies import safe_text
from sandbox.launcher.build_verb import NodeImage

MAX_METADATA: Final = 256 * 1024
MAX_PACKAGES: Final = 5_000
_MAX_LICENCE: Final = 200
_CLASSIFIER: Final = "License :: "
_UNSAID: Final = {"", "UNKNOWN", "NONE"}
_DISTRIBUTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,200}\.dist-info\Z")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,100}\Z")

From = Literal["environment", "image", "build"]


@dataclass(frozen=True, slots=True)
class Package:
    """One package that an extension can import, or that one of them was built with (``build``)."""

    name: str
    """Canonical."""
    version: str
    comes_from: From
    hashes: tuple[str, ...] = ()
    """``sha256:...`` of the files that the lock allows; one of them was installed."""
    licence: str = ""
    """As the package says of itself; empty when it says nothing that can be used."""
    locked: bool = True
    """False: it lies in the environment and stands in no lock (another package's build brought it)."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All packages of an extension, and what they are on."""

    environment_key: str | None
    image: NodeImage
    packages: tuple[Package, ...]


def take_inventory(
    image: NodeImage,
    key: str | None,
    site: Path | None,
    lock: Mapping[str, tuple[str, ...]],
    versions: Mapping[str, str],
) -> Inventory:
    """The packages of an environment (``versions`` and ``lock`` are what it was built from) before the image's own."""
    licences = {name: (version, licence) for name, version, licence in _distributions(site)} if site else {}
    found = []
    for name, version in sorted(versions.items()):
        said = licences.pop(name, ("", ""))
        hashes = next((lock[each] for each in lock if canonicalize_name(each) == name), ())
        found.append(Package(name, version, "environment", hashes, said[1]))
    for name, (version, licence) in sorted(licences.items()):
        found.append(Package(name, version, "environment", (), licence, locked=False))
    here = {package.name for package in found}
    for name, version in sorted(image.packages.items()):
        if name not in here:
            found.append(Package(name, version, "image", licence=image.licences.get(name, "")))
    return Inventory(key, image, tuple(found[:MAX_PACKAGES]))


def with_build_tools(
    inventory: Inventory, versions: Mapping[str, str], lock: Mapping[str, tuple[str, ...]]
) -> Inventory:
    """The same, and what its packages were built with, as locked."""
    hashes: dict[str, tuple[str, ...]] = {canonicalize_name(name): found for name, found in lock.items()}
    tools = [
        Package(name, version, "build", hashes.get(name, ())) for name, version in sorted(versions.items())
    ]
    return replace(inventory, packages=(*inventory.packages, *tools)[:MAX_PACKAGES])


def _distributions(site: Path) -> Iterator[tuple[str, str, str]]:
    """Name, version and licence of each installed package."""
    names = sorted(name for name in os.listdir(site) if _DISTRIBUTION.match(name))[:MAX_PACKAGES]  # noqa: PTH208
    for directory in names:
        text = _metadata(site / directory / "METADATA")
        given, _, version = directory.removesuffix(".dist-info").partition("-")
        if not _VERSION.match(version):
            continue
        yield canonicalize_name(given), version, licence_in(text)


def licence_in(text: str) -> str:
    """The licence that a package's metadata names: its expression, else its field, else its classifiers."""
    message = HeaderParser().parsestr(text)
    expression = str(message.get("License-Expression") or "").strip()
    if expression:
        return safe_text(expression, _MAX_LICENCE)
    field = str(message.get("License") or "").strip()
    # Many packages put the whole text of a licence here; its name is then in the classifiers.
    if field.upper() not in _UNSAID and "\n" not in field and len(field) <= 100:
        return safe_text(field, _MAX_LICENCE)
    named = [
        line.rpartition(" :: ")[2]
        for line in map(str, message.get_all("Classifier") or ())
        if line.startswith(_CLASSIFIER)
    ]
    return safe_text(", ".join(named[:8]), _MAX_LICENCE)


def _metadata(file: Path) -> str:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            return stream.read(MAX_METADATA).decode("utf-8", "replace")
    except OSError:
        return ""
