"""The packages of requirements.lock, with the metadata of their installations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
LOCK = PROJECT / "requirements.lock"
ENTRY = re.compile(r"^([a-z0-9][^\\\n]*)\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)

PERMITTED = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0"})
"""Licences by their SPDX identifiers; a package with another one needs a manual decision."""
EXCEPTIONS = {"certifi": "MPL-2.0"}
"""Copyleft for its own file alone, which is Mozilla's list of CAs as it is."""
LICENCE_FIELDS = ("License-Expression", "License", "Classifier")
"""The metadata fields of the licence, the best first."""
SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
}
"""Spellings in older metadata for SPDX identifiers."""


@dataclass(frozen=True, slots=True)
class Package:
    """One locked package.

    Attributes:
        hashes: SHA-256 of each file that may be installed.
        licence: an SPDX expression, or the text of the metadata.
        requires: the names of its dependencies on this platform.
    """

    name: str
    version: str
    hashes: tuple[str, ...]
    licence: str
    requires: tuple[str, ...]

    @property
    def is_permitted(self) -> bool:
        """Whether each licence of the expression is permitted."""
        named = set(re.findall(r"[\w.+-]+", self.licence)) - {"AND", "OR"}
        return bool(named) and named <= PERMITTED | {EXCEPTIONS.get(self.name, "")}


def locked() -> tuple[list[Package], list[Requirement]]:
    """The packages for this platform; and the pins of the others."""
    entries = [(Requirement(pin), hashes) for pin, hashes in ENTRY.findall(LOCK.read_text())]
    here = [(pin, hashes) for pin, hashes in entries if pin.marker is None or pin.marker.evaluate()]
    elsewhere = [pin for pin, hashes in entries if (pin, hashes) not in here]
    names = {pin.name for pin, _ in here}
    return [_package(pin, hashes, names) for pin, hashes in here], elsewhere


def requires(name: str, among: set[str]) -> tuple[str, ...]:
    """The names of an installed package's dependencies on this platform, without extras."""
    wanted = map(Requirement, metadata.requires(name) or ())
    found = {canonicalize_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})}
    return tuple(sorted(found & among))


def _package(pin: Requirement, hashes: str, names: set[str]) -> Package:
    version = str(pin.specifier).removeprefix("==")
    installed = metadata.version(pin.name)
    if installed != version:
        raise SystemExit(f"{pin.name} {installed} is installed, and {version} is locked: run `make venv`")
    found = tuple(sorted(re.findall("[0-9a-f]{64}", hashes)))
    return Package(pin.name, version, found, _licence(metadata.metadata(pin.name)), requires(pin.name, names))


def _licence(said: metadata.PackageMetadata) -> str:
    licences = [text for field in LICENCE_FIELDS for text in said.get_all(field) or () if text]
    first = next((text for text in licences if "::" not in text or text.startswith("License ::")), "unknown")
    return SPELLINGS.get(first, first)
