"""`vaultsync version`: the versions that a bug report needs. Imports no dependency: reads what is installed."""

import json
import platform
import re
from argparse import Namespace
from importlib import metadata

from vaultsync import __version__


def execute(arguments: Namespace) -> int:
    """Print the versions of vaultsync, Python and the dependencies; returns the exit code."""
    versions = {"vaultsync": __version__, "python": platform.python_version(), **_dependencies()}
    lines = "\n".join(f"{name} {version}" for name, version in versions.items())
    print(json.dumps(versions, indent=2) if arguments.output == "json" else lines)
    return 0


def _dependencies() -> dict[str, str]:
    """The versions of the run-time dependencies; none where vaultsync itself is not installed."""
    try:
        required = metadata.requires("vaultsync") or ()
    except metadata.PackageNotFoundError:
        return {}
    names = [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in required if "extra ==" not in one]
    return {name: metadata.version(name) for name in sorted(names)}
