"""The peers of vaultsync: the processes and objects that each needs, set up as its own documentation says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.bench import running
from tests.bench.fixture import KEY, PLAIN, Fixture, Recipe, Spot, create
from tests.testbed.place import Place
from tests.testbed.processes import Process
from tests.testbed.testbed import Testbed

POLLED = "5s"
GENERATORS = "generators.external-secrets.io/v1alpha1"
PUSHED = "external-secrets.io/v1alpha1"
PUSH = "push"
"""The name of everything that PushSecrets need: a store with its token, and that token's policy in Vault."""
PUSH_TOKEN = "testbed-push"
PUSH_RULES = """
path "secret/data/*" { capabilities = ["create", "read", "update", "patch"] }
path "secret/metadata/*" { capabilities = ["create", "read", "update", "patch"] }
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """One contender.

    Attributes:
        key: the key in a figure's samples.
        title: the title of its column.
        start: runs it; yields its process, None if only external-secrets runs.
        recipe: how its objects are created.
        many: whether it is also measured among a thousand ExternalSecrets.
        scale: overrides of the scale, such as less patience for a peer whose values never arrive.
    """

    key: str
    title: str
    start: Callable[[Testbed], AbstractContextManager[Process | None]]
    recipe: Recipe = PLAIN
    many: bool = False
    scale: dict[str, Any] = field(default_factory=dict)

    def on(self, fixture: Fixture) -> Fixture:
        """The fixture with this peer's recipe and scale."""
        shorter = {name: min(value, getattr(fixture.scale, name)) for name, value in self.scale.items()}
        return replace(fixture, recipe=self.recipe, scale=replace(fixture.scale, **shorter))


def _store_to_push(place: Place) -> None:
    """A store that may write, and rules for passwords."""
    metadata = {"name": PUSH, "namespace": place.name}
    place.kube.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": PUSH_TOKEN}})
    place.store(PUSH, auth={"tokenSecretRef": {"name": PUSH, "key": "token"}})
    rules = {"length": 32, "digits": 5, "symbols": 0, "noUpper": False, "allowRepeat": True}
    place.kube.create({"apiVersion": GENERATORS, "kind": "Password", "metadata": metadata, "spec": rules})


def _pushed(spot: Spot, refresh: str) -> None:
    """A PushSecret that writes a generated password where none is, and the ExternalSecret that reads it."""
    generator = {"apiVersion": GENERATORS, "kind": "Password", "name": PUSH}
    there = {"remoteKey": spot.place.path(spot.name), "property": KEY}
    spot.place.kube.create(
        {
            "apiVersion": PUSHED,
            "kind": "PushSecret",
            "metadata": {"name": spot.name, "namespace": spot.place.name},
            "spec": {
                "refreshInterval": refresh,
                "updatePolicy": "IfNotExists",
                "secretStoreRefs": [{"name": PUSH, "kind": "SecretStore"}],
                "selector": {"generatorRef": generator},
                "data": [{"match": {"secretKey": KEY, "remoteRef": there}}],
            },
        }
    )
    create(spot, refresh)


@contextlib.contextmanager
def _push_rights(testbed: Testbed) -> Iterator[None]:
    testbed.vault_root.policy(PUSH, PUSH_RULES)
    testbed.vault_root.token([PUSH], PUSH_TOKEN)
    yield


SOON = {"patience": 15.0, "load_patience": 60.0}
"""Three times its interval is enough to see that nothing arrives."""
PEERS = (
    Peer("talk", "the talk's bash, ESO at 5 s", running.talk, many=True),
    Peer("eso", "ESO polling at 5 s", lambda _: contextlib.nullcontext(), scale=SOON),
    Peer("push", "PushSecret and ESO at 5 s", _push_rights, Recipe(_store_to_push, _pushed)),
)
