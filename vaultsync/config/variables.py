"""Environment variables: the removed ones, and the description of all others for `--help`."""

from collections.abc import Mapping
from typing import Final

from vaultsync.config.settings import Settings, variable
from vaultsync.generation.rule_set import NO_RULES

REMOVED: Final[Mapping[str, str]] = {
    "VAULTSYNC_POD_IP": "set VAULTSYNC_POD_NAME to metadata.name, and grant `patch` on pods, as deploy/base does: the "
    "leader labels its pod, and the Service of the audit port selects that label",
}
"""Variables of earlier versions, and their replacements."""


def removed_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The removed variables that are set, with what to do. Other unknown variables are ignored."""
    return {name: fix for name, fix in REMOVED.items() if environment.get(name)}


def describe_variables() -> str:
    """A paragraph for each setting: variable, description, default."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = (
            ""
            if field.is_required() or field.default in (None, "", (), NO_RULES)
            else f" [default: {_shown(field.default)}]"
        )
        lines.append(f"  {variable(name)}\n      {field.description}{default}")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value == 0:
        return "0"
    if isinstance(value, float):
        return f"{value / 3600:g}h" if value % 3600 == 0 else f"{value:g}s"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(getattr(value, "value", value))
