"""The names that vaultsync shares with people: annotations, Event reasons, condition reasons. All are here."""

from enum import StrEnum
from typing import Final

GROUP: Final = "external-secrets.io"

SEED: Final = "vaultsync.io/seed"
"""On an ExternalSecret or a Namespace: "true" or "false"."""
CREATE: Final = "create"
"""On an ExternalSecret: the talk's spelling of the same."""
GENERATE: Final = "vaultsync.io/generate"
"""On an ExternalSecret: the rules for its values by property, in YAML or JSON; see generation.rules."""
ROTATE_AFTER: Final = "vaultsync.io/rotate-after"
"""On an ExternalSecret: the age at which values that vaultsync made are made anew, such as 30d, or "never"."""
ROTATE: Final = "vaultsync.io/rotate"
"""On an ExternalSecret: each new text makes the values that vaultsync made anew, once."""
FORCE_SYNC_OPT_OUT: Final = "vaultsync.io/force-sync"
"""On an ExternalSecret: "false" keeps vaultsync from force-syncing it."""
FORCE_SYNC: Final = "force-sync"
"""What external-secrets documents for a manual refresh; any changed annotation makes it read the store again."""
VERSIONS: Final = "vaultsync.io/versions"
"""Written by vaultsync: the Vault version of each path that it last force-synced (JSON object)."""
CREATED: Final = "vaultsync.io/created"
"""Written by vaultsync where the CRD refuses the condition: "<status> <reason>" of what would be the condition."""
MESSAGE: Final = "vaultsync.io/message"
"""Written by vaultsync where the CRD refuses the condition: the condition's message."""
LEADER_LABEL: Final = "vaultsync.io/leader"
"""On the pod of the replica that leads: "true". The Service of the audit port selects it."""
READ_ANNOTATIONS: Final = (
    SEED,
    CREATE,
    GENERATE,
    ROTATE_AFTER,
    ROTATE,
    FORCE_SYNC_OPT_OUT,
    VERSIONS,
    CREATED,
    MESSAGE,
)

CONDITION_TYPE: Final = "Created"


class CreatedReason(StrEnum):
    """Reasons of the condition `Created` (or of the annotation in its place)."""

    SUCCESS = "Success"
    EXISTS = "Exists"
    ERROR_CREATING = "ErrorCreating"
    RECREATING = "Recreating"
    ERROR_ANNOTATION = "ErrorAnnotation"


class EventReason(StrEnum):
    """Reasons of the Kubernetes Events that vaultsync records."""

    SEEDED = "Seeded"
    RECREATED = "Recreated"
    ROTATED = "Rotated"
    FORCE_SYNCED = "ForceSynced"
    SEED_FAILED = "SeedFailed"


class Refusal(StrEnum):
    """Why something is not made for an ExternalSecret: the label `reason` of the metrics, gravest first."""

    VAULT_DENIED = "vault_denied"
    VAULT_REJECTED = "vault_rejected"
    VAULT_FAILED = "vault_failed"
    SEED_PATHS = "seed_paths"
    SEED_BUDGET = "seed_budget"
    ANNOTATION = "annotation"
    IMPOSSIBLE = "impossible"


class Result(StrEnum):
    """How a pass has ended: the label `result` of the metrics."""

    DONE = "done"
    PUT_OFF = "put_off"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    GONE = "gone"
    FAILED = "failed"
