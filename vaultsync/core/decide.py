"""Decides about one Vault path: frozen inputs → at most one write, and the problems of its readers. Pure, table-tested.

Invariant: a decision never replaces a value that somebody else may have written. It creates a version where none is
live, adds missing keys, or (a rotation) replaces values that the path's ownership metadata attributes to vaultsync.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultsync.core.paths import VaultPath
from vaultsync.core.reader import PathInput, Problem, Reader
from vaultsync.core.rotate import Rotation, plan_rotation
from vaultsync.core.seed import NEW, History, Seed, plan_seed
from vaultsync.core.vault_state import SecretState
from vaultsync.generation.rule_set import NO_RULES, Rules


@dataclass(frozen=True, slots=True)
class Defaults:
    """Cluster-wide settings for ExternalSecrets that say nothing else.

    Attributes:
        rules: for values.
        rotate_after: the age in seconds at which values are replaced, 0 for never.
    """

    rules: Rules = NO_RULES
    rotate_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do at a path: at most one write.

    Attributes:
        due: when a rotation will be due, None for never, or if there is a write now.
    """

    seed: Seed | None = None
    problems: tuple[Problem, ...] = ()
    rotation: Rotation | None = None
    due: datetime | None = None


NO_DEFAULTS: Final = Defaults()
NOTHING: Final[Mapping[str, str]] = {}


def decide(
    path: VaultPath,
    state: SecretState,
    readers: Sequence[Reader],
    now: datetime,
    history: History = NEW,
    defaults: Defaults = NO_DEFAULTS,
    forbidden: Mapping[str, str] = NOTHING,
) -> Decision:
    """Decide about one path.

    Args:
        path: the secret.
        state: of the path in Vault.
        readers: the ExternalSecrets that read it, the oldest first.
        now: to tell a value's age.
        history: the past of the path.
        defaults: cluster-wide.
        forbidden: Kubernetes namespaces for which nothing may be created here, each with the reason.
    """
    given = PathInput(path, state, tuple(readers), forbidden)
    seed, problems, asked = plan_seed(given, history, defaults.rules)
    if asked:
        return Decision(seed, problems)
    rotation, due, more = plan_rotation(given, now, defaults.rotate_after, defaults.rules)
    return Decision(None, (*problems, *more), rotation, due)
