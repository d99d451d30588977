"""What is read of installed packages, whose files are strangers'."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from sandbox.bills import Subject, make_bill
from sandbox.inventory import Inventory, licence_in, take_inventory
from sandbox.launcher.build_verb import NodeImage

HASH = f"sha256:{'a' * 64}"


def install(site: Path, name: str, metadata: str | bytes | None) -> Path:
    directory = site / name
    directory.mkdir(parents=True)
    if metadata is not None:
        (directory / "METADATA").write_bytes(metadata if isinstance(metadata, bytes) else metadata.encode())
    return directory


def taken(image: NodeImage, site: Path, **versions: str) -> Inventory:
    return take_inventory(image, "k" * 64, site, dict.fromkeys(versions, (HASH,)), versions)


def bill(inventory: Inventory) -> str:
    return make_bill(Subject("blur", "0" * 64, "git", "https://host.example/blur.git", "c" * 40), inventory)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        ("License: BSD\n", "BSD"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        ("License: Permission is hereby\n granted\nClassifier: License :: OSI Approved :: X\n", "X"),
        ("Name: x\n\nLicense: in the description\n", ""),
        ("", ""),
        ("License: \x1b[31mred\n", "\\x1b[31mred"),
    ],
)
def test_the_licence_is_what_the_package_names(metadata: str, licence: str) -> None:
    assert licence_in(metadata) == licence


def test_locked_packages_come_first_and_strays_are_marked(image: NodeImage, tmp_path: Path) -> None:
    install(tmp_path, "victim-1.0.dist-info", "License-Expression: MIT\n")
    install(tmp_path, "stray-9.dist-info", "License: BSD\n")
    inventory = taken(image, tmp_path, victim="1.0")
    found = {package.name: package for package in inventory.packages}
    assert (found["victim"].licence, found["victim"].hashes, found["victim"].locked) == ("MIT", (HASH,), True)
    assert (found["stray"].locked, found["stray"].comes_from) == (False, "environment")
    assert found["numpy"].comes_from == "image"


def test_the_images_packages_have_the_licences_that_were_written_down_when_it_was_made(
    image: NodeImage,
) -> None:
    image = replace(image, licences={"numpy": "BSD-3-Clause"})
    parts = {
        part["name"]: part
        for part in json.loads(bill(take_inventory(image, None, None, {}, {})))["components"]
    }
    assert parts["numpy"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert "licenses" not in parts["scipy"]


def test_hostile_metadata_reaches_nothing_and_breaks_no_bill(image: NodeImage, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("License: secret\n")
    site = tmp_path / "site"
    (install(site, "link-1.0.dist-info", None) / "METADATA").symlink_to(tmp_path / "secret")
    os.mkfifo(install(site, "pipe-1.0.dist-info", None) / "METADATA")
    install(site, "huge-1.0.dist-info", b"License: " + b"x" * 2_000_000)
    install(site, "binary-1.0.dist-info", b"\xff\x00License: \xfe\n")
    install(site, "numpy-2.4.6.dist-info", "License-Expression: not ( an expression\n")
    install(site, "odd name-1.dist-info", "License: x\n")
    install(site, "x-<script>.dist-info", "License: x\n")
    (site / "file-1.0.dist-info").write_text("")
    inventory = taken(image, site, link="1.0", gone="3.0")
    text = bill(inventory)
    assert "secret" not in text
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = [part["purl"] for part in json.loads(text)["components"]]
    assert len(parts) == len(set(parts))
    assert "pkg:pypi/gone@3.0" in parts


def test_a_bill_is_the_same_for_the_same_parts_whatever_the_order(image: NodeImage, tmp_path: Path) -> None:
    install(tmp_path, "a-1.dist-info", "License: MIT\n")
    one = bill(taken(image, tmp_path, a="1", b="2"))
    assert bill(taken(image, tmp_path, b="2", a="1")) == one
    assert json.loads(one)["metadata"]["component"]["externalReferences"][0]["type"] == "vcs"
    assert bill(taken(image, tmp_path, a="1", b="3")) != one
