"""The talk's example: four development namespaces, ten ExternalSecrets each, and nothing in Vault yet.

The keys use every spelling that external-secrets accepts for the same path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.watching import Name
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed, side_by_side

SEED = "vaultsync.io/seed"
CREATE = "create"  # the talk's own annotation
NAMESPACES = ("dev-1", "dev-2", "dev-3", "dev-4")
ANNOTATED_NAMESPACES = ("dev-3", "dev-4")  # the annotation is on the Namespace; elsewhere on each ExternalSecret
SPELLINGS = ("{path}", "secret/{path}", "secret/data/{path}")
PROPERTIES = {
    "postgres": ("password",),
    "redis": ("password",),
    "mongodb": ("password",),
    "rabbitmq": ("password", "erlang-cookie"),
    "minio": ("access-key", "secret-key"),
    "grafana": ("password",),
    "keycloak": ("password",),
    "kafka": ("password",),
    "elasticsearch": ("password",),
    "session": ("key",),
}


@dataclass(frozen=True, slots=True)
class Example:
    """One ExternalSecret of the example.

    Attributes:
        key: the path as this ExternalSecret spells it.
        path: the path as the Vault CLI takes it.
    """

    name: Name
    key: str
    path: str
    properties: tuple[str, ...]

    @property
    def annotations(self) -> dict[str, str]:
        return {} if self.name.namespace in ANNOTATED_NAMESPACES else {CREATE: "true"}

    def apply(self, place: Place) -> None:
        data = {wanted: (self.key, wanted) for wanted in self.properties}
        place.external_secret(self.name.name, data, annotations=self.annotations, absolute=True)


def examples() -> Iterator[Example]:
    """All forty."""
    for namespace in NAMESPACES:
        for number, (name, properties) in enumerate(PROPERTIES.items()):
            yield example(namespace, name, properties, SPELLINGS[number % len(SPELLINGS)])


def example(namespace: str, name: str, properties: tuple[str, ...], spelling: str = SPELLINGS[0]) -> Example:
    path = f"{namespace}/{name}"
    return Example(Name(namespace, name), spelling.format(path=path), f"secret/{path}", properties)


def apply(testbed: Testbed) -> dict[str, Place]:
    """Creates the namespaces with their stores, and the ExternalSecrets in them."""
    places = {namespace: Place(testbed, namespace) for namespace in NAMESPACES}
    for place in places.values():
        place.create()
    for namespace in ANNOTATED_NAMESPACES:
        testbed.kube.patch("v1", "Namespace", namespace, {"metadata": {"annotations": {SEED: "true"}}})
    tasks = [lambda one=one: one.apply(places[one.name.namespace]) for one in examples()]
    side_by_side(*tasks, workers=4)
    return places
