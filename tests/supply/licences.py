"""The list of licences, docs/licences.md, and whether each is permitted."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.requirements import Requirement

from tests.supply.locked import PROJECT, Package

LICENCES = PROJECT / "docs" / "licences.md"
HEAD = """\
# Licences
vaultsync itself is under Apache-2.0 ([LICENSE](../LICENSE)). This page lists the packages of `requirements.lock` in the
image, with the licence that each declares; `make licences` writes the list, and a test compares it with the lock
file. All licences are permissive except certifi's, which requires the source of changes to its own file, a list of
CAs: there are none.

| package | version | licence |
| --- | --- | --- |
"""


def table(packages: Sequence[Package], elsewhere: Sequence[Requirement]) -> str:
    """The document.

    Args:
        packages: those for this platform.
        elsewhere: the pins of the others.
    """
    rows = "".join(f"| {one.name} | {one.version} | {one.licence} |\n" for one in packages)
    rest = ", ".join(f"{pin.name} {str(pin.specifier).removeprefix('==')}" for pin in elsewhere)
    return f"{HEAD}{rows}\nLocked for other platforms, and not in the image: {rest}.\n"


def problems(packages: Sequence[Package]) -> list[str]:
    """A line for each package whose licence is not one of locked.PERMITTED."""
    return [
        f"{one.name} {one.version}: the licence {one.licence!r} is not permitted"
        for one in packages
        if not one.is_permitted
    ]
