"""The bill of materials of an extension, in CycloneDX: the pack itself, every package that it can import, and
what those were built with.

The same pack, lock and image give the same document, byte for byte: it holds no time, and its serial number is made
of its content.
"""

from __future__ import annotations

import json
import uuid
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from policies import safe_text
from sandbox.bills import Subject
from sandbox.inventory import Inventory, Package

_NAMESPACE: Final = uuid.UUID("6f8b0c0e-6d5b-5a5e-9a1e-1f1f4f4b0a51")


def written(subject: Subject, inventory: Inventory) -> str:
    """The bill as JSON."""
    pack = _pack(subject, inventory)
    parts = [_part(package) for package in inventory.packages]
    document = _document(pack, parts, None)
    # A serial number of its own content: who has two bills sees at once whether they are the same.
    serial = uuid.uuid5(_NAMESPACE, document)
    return _document(pack, parts, serial)


def _document(pack: Component, parts: list[Component], serial: uuid.UUID | None) -> str:
    bill = Bom(components=parts, serial_number=serial or _NAMESPACE)
    bill.metadata.timestamp = None  # type: ignore[assignment]  # the schema does not ask for one, and it would differ
    bill.metadata.component = pack
    bill.register_dependency(pack, [part for part in parts if part.scope is not ComponentScope.EXCLUDED])
    written: str = make_outputter(bill, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    return json.dumps(json.loads(written), indent=2, sort_keys=True, ensure_ascii=True) + "\n"


def _pack(subject: Subject, inventory: Inventory) -> Component:
    properties = {
        "ringfence:source:kind": subject.kind,
        "ringfence:source:commit": subject.commit,
        "ringfence:image": inventory.image.id,
        "ringfence:python": inventory.image.python,
        "ringfence:environment": inventory.environment_key,
        "ringfence:lock": subject.lock_digest,
    }
    references = []
    if subject.kind == "git":
        address = XsUri(safe_text(subject.location, 500))
        references.append(ExternalReference(type=ExternalReferenceType.VCS, url=address))
    return Component(
        name=subject.name,
        version=subject.commit or subject.content_hash[:12],
        type=ComponentType.APPLICATION,
        bom_ref=f"ringfence:extension/{subject.name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=subject.content_hash)],
        external_references=references,
        properties=[Property(name=name, value=value) for name, value in properties.items() if value],
    )


def _part(package: Package) -> Component:
    address = PackageURL("pypi", None, package.name, package.version)
    is_tool = package.comes_from == "build"
    properties = [Property(name="ringfence:from", value=package.comes_from)]
    if not package.locked:
        properties.append(Property(name="ringfence:locked", value="false"))
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{address}#build" if is_tool else str(address),
        scope=ComponentScope.EXCLUDED if is_tool else None,  # a sandbox never meets it
        purl=address,
        hashes=[
            HashType(alg=HashAlgorithm.SHA_256, content=each.removeprefix("sha256:"))
            for each in package.hashes
        ],
        licenses=[LicenseFactory().make_from_string(package.licence)] if package.licence else [],
        properties=properties,
    )
