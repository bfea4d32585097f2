"""The bill of materials (CycloneDX) of the packages of requirements.lock in the image."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from tests.supply.locked import Package, requires
from vaultsync import __version__

NAME, LICENCE = "vaultsync", "Apache-2.0"


def bill(packages: Sequence[Package]) -> str:
    """The bill as JSON: the same for the same packages and SOURCE_DATE_EPOCH.

    Raises:
        ValueError: it does not match CycloneDX's own schema.
    """
    root = _component(NAME, __version__, LICENCE, ComponentType.APPLICATION)
    components = {package.name: _of(package) for package in packages}
    bom = Bom(components=components.values())
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(float(os.environ.get("SOURCE_DATE_EPOCH") or time.time()), UTC)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, repr([root.purl, *packages]))
    bom.register_dependency(root, [components[name] for name in requires(NAME, {*components})])
    for package in packages:
        bom.register_dependency(components[package.name], [components[name] for name in package.requires])
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise ValueError(f"the bill of materials is not valid: {error}")
    return text + "\n"


def _of(package: Package) -> Component:
    component = _component(package.name, package.version, package.licence, ComponentType.LIBRARY)
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=one) for one in package.hashes]
    component.external_references.add(
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(str(component.purl)),
            comment="the files that requirements.lock lets in",
            hashes=hashes,
        )
    )
    return component


def _component(name: str, version: str, licence: str, kind: ComponentType) -> Component:
    purl = PackageURL("pypi", None, name, version)
    licences = [LicenseFactory().make_from_string(licence)]
    return Component(name=name, version=version, type=kind, bom_ref=str(purl), purl=purl, licenses=licences)
