"""Generates the derived parts of the Helm chart: `python -m tests.chart` (`make chart`).

These are the settings in its schema, and deploy/monitoring, as helm reads no file outside of a chart. The rest of
values.schema.json is written by hand. Every setting is either a value of its own in the chart, as other objects than
the container's environment go by it, or one of `settings` under the variable's name; never both.
"""

from __future__ import annotations

import json
import shutil
from enum import Enum
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from tests.testbed.identity import DEPLOY
from vaultsync.config.settings import Settings, variable

CHART: Final = DEPLOY / "helm" / "vaultsync"
SCHEMA: Final = CHART / "values.schema.json"
MONITORING: Final = DEPLOY / "monitoring"
COPIED: Final = ("alerts.yaml", "grafana-dashboard.json")
"""The files of deploy/monitoring that are copied into the chart's folder `files`."""

OWN: Final = {
    "VAULT_ADDR": "vault.address",
    "VAULT_CACERT": "vault.ca",
    "VAULT_CLIENT_CERT": "vault.clientTlsSecret",
    "VAULT_CLIENT_KEY": "vault.clientTlsSecret",
    "VAULT_NAMESPACE": "vault.namespace",
    "VAULT_TOKEN_FILE": "vault.auth",
    "VAULTSYNC_AUDIT_LISTEN": "audit.listen",
    "VAULTSYNC_AUDIT_TLS_CERT": "audit.tlsSecret",
    "VAULTSYNC_AUDIT_TLS_KEY": "audit.tlsSecret",
    "VAULTSYNC_HEALTH_LISTEN": "health.listen",
    "VAULTSYNC_LEASE": "replicas",
    "VAULTSYNC_NAMESPACES": "namespaces",
    "VAULTSYNC_POD_NAME": "audit.listen",
    "VAULTSYNC_VAULT_AUTH": "vault.auth.method",
    "VAULTSYNC_VAULT_AUTH_MOUNT": "vault.auth.mount",
    "VAULTSYNC_VAULT_JWT_FILE": "vault.auth",
    "VAULTSYNC_VAULT_ROLE": "vault.auth.role",
    "VAULTSYNC_VAULT_ROLE_ID_FILE": "vault.auth.approle",
    "VAULTSYNC_VAULT_SECRET_ID_FILE": "vault.auth.approle",
}
"""Variables that a value of its own sets."""

SECRETS: Final = {
    variable(name)
    for name, field in Settings.model_fields.items()
    if SecretStr in (field.annotation, *get_args(field.annotation))
}
"""Variables that no value sets: their content is in a Secret, and the pod reads it from a file."""

LIMITS: Final = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "pattern": "pattern"}
"""pydantic's word → JSON Schema's."""

DURATION: Final = r"^([0-9]+(\.[0-9]+)?|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+)$"


def settings_schema() -> dict[str, Any]:
    """JSON Schema of the value `settings`, from the settings themselves."""
    fields = {variable(name): field for name, field in Settings.model_fields.items()}
    return {
        "type": "object",
        "description": "every other setting of `vaultsync run --help`",
        "additionalProperties": False,
        "properties": {
            name: _schema(field) for name, field in sorted(fields.items()) if name not in SECRETS and name not in OWN
        },
    }


def _schema(field: FieldInfo) -> dict[str, Any]:
    limits = {
        word: getattr(item, name)
        for item in field.metadata
        for name, word in LIMITS.items()
        if getattr(item, name, None) is not None
    }
    return {"description": field.description, **_type(field.annotation), **limits}


def _type(kind: object) -> dict[str, Any]:
    if kind is bool:
        return {"type": "boolean"}
    if kind in (int, int | None):
        return {"type": "integer"}
    if kind is float:  # a duration: 30m, or seconds
        return {"type": ["string", "integer"], "pattern": DURATION, "minimum": 0}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [item.value for item in kind]}
    return {"type": "string"}


def with_settings(text: str) -> str:
    """The schema with its part on the settings as they are now."""
    schema = json.loads(text)
    schema["properties"]["settings"] = settings_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main(chart: Path = CHART) -> None:
    schema = chart / SCHEMA.name
    schema.write_text(with_settings(schema.read_text()))
    (chart / "files").mkdir(exist_ok=True)
    for name in COPIED:
        shutil.copyfile(MONITORING / name, chart / "files" / name)


if __name__ == "__main__":
    main()
