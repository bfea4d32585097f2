"""All names that users see: annotations, reasons of Events and conditions, labels of metrics. Constants only."""

from enum import StrEnum
from typing import Final

GROUP: Final = "external-secrets.io"

SEED: Final = "vaultsync.io/seed"
"""On an ExternalSecret or a Namespace: "true" or "false"."""
CREATE: Final = "create"
"""On an ExternalSecret: another spelling of the same, from the talk."""
GENERATE: Final = "vaultsync.io/generate"
"""On an ExternalSecret: the rules for its values by property, in YAML or JSON; see generation.rules."""
ROTATE_AFTER: Final = "vaultsync.io/rotate-after"
"""On an ExternalSecret: the age at which values that vaultsync made are replaced, such as 30d, or "never"."""
ROTATE: Final = "vaultsync.io/rotate"
"""On an ExternalSecret: each new text requests one replacement of the values that vaultsync made."""
HEAL: Final = "vaultsync.io/heal"
"""On an ExternalSecret or a Namespace: "false" has its values created once, and never again."""
HEAL_LOST: Final = "vaultsync.io/heal-lost"
"""On an ExternalSecret or a Namespace: a time (RFC 3339), from which on lost values may be created for 10 minutes."""
FORCE_SYNC_OPT_OUT: Final = "vaultsync.io/force-sync"
"""On an ExternalSecret: "false" disables force-syncs."""
FORCE_SYNC: Final = "force-sync"
"""The annotation that external-secrets documents for a manual refresh; any changed annotation causes a refresh."""
VERSIONS: Final = "vaultsync.io/versions"
"""Written by vaultsync: the version of each path at the last force-sync (JSON object)."""
CREATED: Final = "vaultsync.io/created"
"""Written by vaultsync if the CRD does not allow the condition: its "<status> <reason>"."""
MESSAGE: Final = "vaultsync.io/message"
"""Written by vaultsync if the CRD does not allow the condition: its message."""
LEADER_LABEL: Final = "vaultsync.io/leader"
"""On the leader's pod: "true". The Service of the audit port selects it."""
MOUNTS: Final = "vaultsync.io/mounts"
"""Written by vaultsync on its Lease: the UUIDs of the KV mounts with live values (JSON object)."""
REQUESTS: Final = (SEED, CREATE, GENERATE, ROTATE_AFTER, ROTATE, HEAL, HEAL_LOST, FORCE_SYNC_OPT_OUT)
"""Of an ExternalSecret's owner."""
NAMESPACE_ANNOTATIONS: Final = (SEED, HEAL, HEAL_LOST)
READ_ANNOTATIONS: Final = (*REQUESTS, VERSIONS, CREATED, MESSAGE)

CONDITION_TYPE: Final = "Created"


class CreatedReason(StrEnum):
    """Reasons of the condition `Created` (or of the annotation in its place)."""

    SUCCESS = "Success"
    EXISTS = "Exists"
    ERROR_CREATING = "ErrorCreating"
    RECREATING = "Recreating"
    ERROR_ANNOTATION = "ErrorAnnotation"
    NOT_HEALED = "NotHealed"
    OTHER_OWNER = "OtherOwner"


class EventReason(StrEnum):
    """Reasons of the Kubernetes Events that vaultsync records."""

    SEEDED = "Seeded"
    RECREATED = "Recreated"
    ROTATED = "Rotated"
    FORCE_SYNCED = "ForceSynced"
    SEED_FAILED = "SeedFailed"
    NOT_HEALED = "NotHealed"
    OTHER_OWNER = "OtherOwner"
    EXPIRES = "Expires"


class Refusal(StrEnum):
    """Why a value is not created for an ExternalSecret, most severe first: the label `reason` of the metrics."""

    VAULT_DENIED = "vault_denied"
    VAULT_REJECTED = "vault_rejected"
    VAULT_FAILED = "vault_failed"
    HEAL_LIMIT = "heal_limit"
    OTHER_OWNER = "other_owner"
    EXPIRED = "expired"
    RETIRED = "retired"
    SEED_PATHS = "seed_paths"
    SEED_BUDGET = "seed_budget"
    ANNOTATION = "annotation"
    IMPOSSIBLE = "impossible"


class Result(StrEnum):
    """The result of a pass: the label `result` of the metrics."""

    DONE = "done"
    PUT_OFF = "put_off"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    GONE = "gone"
    FAILED = "failed"
