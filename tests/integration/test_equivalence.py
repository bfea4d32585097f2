"""For every spec that the CRD accepts, external-secrets requests the paths that vaultsync resolves or refuses.

Generates random ExternalSecrets, lets real external-secrets read them, and takes its requests from Vault's audit log.
Each has a Kubernetes namespace of its own, and in it a Vault token of its own, by which the requests are attributed.

VAULTSYNC_EQUIVALENCE_SEED=N generates others.
"""

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import pytest

from tests.testbed.kube import EXTERNAL_SECRETS
from tests.testbed.testbed import Options, Testbed, wait_for
from vaultsync.controller.entry import Entry
from vaultsync.controller.index import Index, server_identity
from vaultsync.core.annotation_parser import SeedMode
from vaultsync.core.external_secret import parse_external_secret, parse_namespace, parse_store
from vaultsync.core.paths import VaultPath
from vaultsync.core.reader import Reference

T = TypeVar("T")
Json = dict[str, Any]

NUMBER = 320
SEED_VARIABLE = "VAULTSYNC_EQUIVALENCE_SEED"
SEED = int(os.environ.get(SEED_VARIABLE) or 1)
TOKEN_SECRET = "vault-token"
AUDIT = "equivalence"
POLICY = 'path "*" { capabilities = ["read", "list"] }'
"""Allows every path: a denial would make external-secrets stop at an ExternalSecret's first entry."""

OWN_PATHS = ("secret", "team/kv", "kv1")
STORES: Mapping[str, Json] = {
    "bare": {},
    "bare-v1": {"version": "v1"},
    "empty": {"path": ""},
    "secret": {"path": "secret"},
    "secret-v1": {"path": "secret", "version": "v1"},
    "slash": {"path": "secret/"},
    "slashes": {"path": "secret//"},
    "rooted": {"path": "/secret"},
    "folder": {"path": "secret/app"},
    "team": {"path": "team/kv"},
    "team-half": {"path": "team"},
    "team-data": {"path": "team/kv/data"},
    "data": {"path": "secret/data"},
    "data-v1": {"path": "secret/data", "version": "v1"},
    "old": {"path": "kv1", "version": "v1"},
    "old-slash": {"path": "kv1/", "version": "v1"},
    "old-data": {"path": "kv1/data", "version": "v1"},
    "old-as-v2": {"path": "kv1"},
    "unmounted": {"path": "no/such"},
}
HALF_OPEN = "half-open"
"""A ClusterSecretStore with conditions: only every other namespace may use it."""
NOWHERE = "nowhere"

SECRETS = ("app", "app/a", "app/sub/b", "app/sub/c", "data/d", "x y", "ü/ß")
LEAVES: tuple[str, ...] = (
    *SECRETS,
    "missing",
    "a.b.c",
    "100%",
    "%2e%2e/a",
    "a?b#c",
    "a+b&c=d",
    "data",
    "data/data/x",
    "metadata/a",
)
LEAVES += (
    "secret",
    "secret/a",
    "secret/data/a",
    "team/kv/a",
    "kv1/a",
    "secretive/a",
    "日本/語",
    "",
    "back\\slash",
    "~",
)
LEAVES += ("long/" + "l" * 700, "/".join("deep" for _ in range(60)))
FOLDERS: tuple[str, ...] = (
    "",
    "/",
    "//",
    "data/",
    "/data/",
    "secret/",
    "secret//",
    "secret/data/",
    "secret/metadata/",
    "secret/app/",
)
FOLDERS += ("team/kv/", "team/kv/data/", "team/", "team/data/kv/", "kv1/", "kv1/data/", "/secret/", "no/such/")
DOTS = (".", "..", "../..", "...")
INVISIBLE = ("\x01", "\t", "\x7f", "\x85", "\u00a0", "\u200b")
PROPERTIES = ("", "password", "db.password", "list.0", "list.#", "@this", "pass|word", "*", "no such")
VERSIONS = ("1", "0", "99", "latest", "-1")
FIND_PATHS: tuple[str, ...] = (
    "",
    "app",
    "app/",
    "app//",
    "/app",
    "app/sub",
    "data",
    "ü",
    "missing",
    "app/../app",
    "database/x",
)
FIND_PATHS += ("secret", "secret/app", "secret/data", "secret/data/app", "/secret/data/app", "team/kv/data", "kv1/app")
REGEXPS = ("", ".*", "a$", "^app/", "[")


class Asked(NamedTuple):
    """A request as Vault routed it: `list` or `read`, and the API path."""

    operation: str
    path: str


@dataclass(frozen=True)
class Case:
    """One ExternalSecret, the requests of external-secrets for it, and the paths that vaultsync resolves.

    Attributes:
        steps: what vaultsync resolves, entry by entry in the order in which external-secrets reads them.
    """

    document: Json
    asked: frozenset[Asked]
    ready: bool
    steps: Sequence[Entry]

    @property
    def refused(self) -> bool:
        """Whether vaultsync reports why an entry cannot be created."""
        return any(reference.refusal for _, group in self.references() for reference in group)

    def references(self) -> Iterator[tuple[VaultPath, Sequence[Reference]]]:
        """The paths that vaultsync resolves by name."""
        for step in self.steps:
            yield from step.references.items()

    @property
    def agrees(self) -> bool:
        """Whether external-secrets requested the paths that vaultsync resolves.

        It stops at the first entry that fails, so with several entries a prefix is enough, unless all succeeded.
        """
        fewest = len(self.steps) if self.ready else min(1, len(self.steps))
        return any(self._agrees(self.steps[:number]) for number in range(fewest, len(self.steps) + 1))

    def _agrees(self, steps: Iterable[Entry]) -> bool:
        asked = set(self.asked)
        for step in steps:
            for path, group in step.references.items():
                for reference in group:
                    forms = forms_of(path.path) if reference.metadata else {path.path}
                    if not forms & {one.path for one in self.asked}:
                        return False
                    asked -= {Asked("read", form) for form in forms}
            for prefix in step.prefixes:
                folders = forms_of(prefix.prefix)
                if not any(Asked("list", folder) in self.asked for folder in folders):
                    return False
                # the paths read in it depend on the find's name and tags; vaultsync follows the whole folder
                asked -= {one for one in self.asked if one.path.startswith(tuple(folders))}
        return not asked

    def __str__(self) -> str:
        resolved = [
            *((str(path), [reference.refusal for reference in group]) for path, group in self.references()),
            *(str(prefix) for step in self.steps for prefix in step.prefixes),
        ]
        spec = json.dumps(self.document["spec"], ensure_ascii=False)
        return f"{spec}\n  asked: {sorted(self.asked)}, ready: {self.ready}\n  resolved: {resolved}"


def forms_of(api_path: str) -> set[str]:
    """The path as vaultsync names it, and the paths of its custom metadata, or of its listing.

    The last have `metadata` for one segment `data`: which one follows from the store, and vaultsync has to know it.
    """
    segments = api_path.split("/")
    places = [place for place, segment in enumerate(segments) if segment == "data"]
    return {api_path} | {"/".join([*segments[:place], "metadata", *segments[place + 1 :]]) for place in places}


class Draw:
    """Generates random ExternalSecrets."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def external_secret(self, namespace: str) -> Json:
        """An ExternalSecret that the CRD accepts, valid or not."""
        number = self._pick((1, 1, 1, 2, 3))
        entries = [self._entry(index, odd=number == 1) for index in range(number)]
        spec: Json = {
            "refreshInterval": "1h",
            # with it external-secrets continues after a missing path
            "target": {"deletionPolicy": "Delete"},
            **self._maybe(0.95, "secretStoreRef", self._store),
        }
        for field in ("data", "dataFrom"):
            if of_field := [entry for where, entry in entries if where == field]:
                spec[field] = of_field
        metadata = {"name": "app", "namespace": namespace}
        return {"apiVersion": EXTERNAL_SECRETS, "kind": "ExternalSecret", "metadata": metadata, "spec": spec}

    def _entry(self, index: int, *, odd: bool) -> tuple[str, Json]:
        kind = self._pick(("remoteRef", "remoteRef", "remoteRef", "extract", "find"))
        source = self._maybe(0.4, "sourceRef", self._source)
        if kind == "find":
            return "dataFrom", {"find": self._find(), **source}
        entry: Json = {kind: self._remote_ref(odd=odd), **source}
        if kind == "extract":
            return "dataFrom", entry
        return "data", {"secretKey": f"key{index}", **entry}

    def _source(self) -> Json:
        """A store, or a field that only external-secrets' webhook, not its CRD, would refuse with a key."""
        return self._pick(({"storeRef": self._store()},) * 8 + ({"storeRef": {"kind": "SecretStore"}},))

    def _store(self) -> Json:
        kind = self._maybe(0.85, "kind", lambda: self._pick(("ClusterSecretStore",) * 4 + ("SecretStore",)))
        return {"name": self._pick((*STORES, HALF_OPEN, HALF_OPEN, NOWHERE)), **kind}

    def _find(self) -> Json:
        return {
            **self._maybe(0.8, "path", lambda: self._pick(FIND_PATHS)),
            **self._maybe(0.7, "name", lambda: {"regexp": self._pick(REGEXPS)}),
            **self._maybe(0.3, "tags", lambda: {"team": "a"}),
        }

    def _remote_ref(self, *, odd: bool) -> Json:
        return {
            "key": self._key(odd=odd),
            **self._maybe(0.6, "property", lambda: self._pick(PROPERTIES)),
            **self._maybe(0.1, "version", lambda: self._pick(VERSIONS)),
            **self._maybe(0.15, "metadataPolicy", lambda: self._pick(("Fetch", "Fetch", "None"))),
        }

    def _key(self, *, odd: bool) -> str:
        key = self._pick(FOLDERS) + self._pick(LEAVES) + self._pick(("", "", "", "/", "//"))
        if self._random.random() < 0.15:
            key = key.replace("/", "//")
        if odd and self._random.random() < 0.2:
            segments = key.split("/")
            segments.insert(self._random.randint(0, len(segments)), self._pick(DOTS))
            key = "/".join(segments)
        if odd and self._random.random() < 0.05:
            key += self._pick(INVISIBLE)
        return key

    def _pick(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)

    def _maybe(self, chance: float, field: str, value: Callable[[], object]) -> Json:
        return {field: value()} if self._random.random() < chance else {}


@pytest.fixture(scope="module")
def testbed() -> Iterator[Testbed]:
    """Overrides the session's: its rate-limited external-secrets would be busy with unreadable paths for long."""
    fast = ("--client-qps=2000", "--client-burst=2000")
    with Testbed(Options(eso_concurrent=4, eso_store_requeue="10m", eso_extra=fast)) as made:
        yield made


def test_external_secrets_requests_the_paths_that_vaultsync_resolves(testbed: Testbed) -> None:
    prepare(testbed)
    drawn = [drawn_external_secret(Draw(SEED * 100_000 + number), f"e{number}") for number in range(NUMBER)]
    index = furnished_index(testbed, drawn)
    with ThreadPoolExecutor(4) as pool:
        documents = list(pool.map(testbed.kube.create, drawn))
    wait_for(
        lambda: len(ready(testbed, "ExternalSecret")) == NUMBER, 60, "external-secrets processes each of them", poll=0.5
    )
    cases = read_cases(testbed, index, documents)
    print(summary(cases))
    wrong = [case for case in cases if not case.agrees and not case.refused]
    assert not wrong, f"{len(wrong)} of {NUMBER} differ; replay with {SEED_VARIABLE}={SEED}\n" + "\n".join(
        map(str, wrong)
    )
    # neither by refusing everything nor by requesting nothing
    agreed = [case for case in cases if case.agrees]
    assert len(agreed) > NUMBER * 2 // 3
    assert sum(bool(case.asked) for case in agreed) > NUMBER // 2


def drawn_external_secret(draw: Draw, namespace: str) -> Json:
    """Generates a spec that external-secrets can process: without a path, KV v1 and `find` make it panic."""
    while True:
        document = draw.external_secret(namespace)
        default = document["spec"].get("secretStoreRef")
        finds = [entry for entry in document["spec"].get("dataFrom", []) if "find" in entry]
        if all((_own_store(entry) or default or {}).get("name") != "bare-v1" for entry in finds):
            return document


def _own_store(entry: Json) -> Json | None:
    store: Json | None = entry.get("sourceRef", {}).get("storeRef")
    return store


def prepare(testbed: Testbed) -> None:
    """Creates audit log, secrets, and every ClusterSecretStore, which uses the token in the reader's namespace."""
    vault = testbed.vault_root
    vault.policy(AUDIT, POLICY)
    for mount in OWN_PATHS:
        for secret in SECRETS:
            vault.put(secret, mount, password="p", db={"password": "q"}, list=["r"])
        if mount != "kv1":
            vault.api.request("POST", f"/v1/{mount}/metadata/app/a", {"custom_metadata": {"team": "a"}})
    vault.audit(AUDIT, "file", file_path=str(testbed.work / "equivalence.log"), log_raw="true")


def store(testbed: Testbed, name: str, namespace: str | None = None) -> Json:
    """Creates one of the stores: a SecretStore, or without a namespace a ClusterSecretStore."""
    kind = "SecretStore" if namespace else "ClusterSecretStore"
    auth = {"tokenSecretRef": {"name": TOKEN_SECRET, "key": "token"}}
    provider = {"server": testbed.vault.address, "auth": auth, **STORES.get(name, STORES["secret"])}
    spec: Json = {"provider": {"vault": provider}}
    if name == HALF_OPEN:
        spec["conditions"] = [{"namespaceRegexes": ["[02468]$"]}]
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return testbed.kube.create({"apiVersion": EXTERNAL_SECRETS, "kind": kind, "metadata": metadata, "spec": spec})


def furnish(testbed: Testbed, document: Json) -> tuple[Json, list[Json]]:
    """Creates an ExternalSecret's namespace with a token of its own and the SecretStores it names; returns them."""
    name = document["metadata"]["namespace"]
    namespace = testbed.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    token = testbed.vault_root.token([AUDIT], token_of(name))
    metadata = {"name": TOKEN_SECRET, "namespace": name}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}}
    testbed.kube.create(secret)
    spec = document["spec"]
    refs = [spec.get("secretStoreRef"), *map(_own_store, spec.get("data", []) + spec.get("dataFrom", []))]
    near = {ref.get("name") for ref in refs if ref and ref.get("kind") != "ClusterSecretStore"} & STORES.keys()
    return namespace, [store(testbed, one, name) for one in sorted(near)]


def token_of(namespace: str) -> str:
    return f"equivalence-{namespace}"


def ready(testbed: Testbed, kind: str) -> dict[str, bool]:
    """The condition Ready of the objects that have one, by `namespace/name`."""
    return {
        f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}": condition["status"] == "True"
        for item in testbed.kube.items(EXTERNAL_SECRETS, kind)
        for condition in item.get("status", {}).get("conditions", [])
        if condition["type"] == "Ready"
    }


def furnished_index(testbed: Testbed, drawn: Sequence[Json]) -> Index:
    """Creates the stores and secrets of the ExternalSecrets, and waits until external-secrets would use them."""
    stores = [store(testbed, name) for name in (*STORES, HALF_OPEN)]
    index = Index(frozenset({server_identity(testbed.vault.address)}), SeedMode.ALL)
    with ThreadPoolExecutor(4) as pool:
        for namespace, near in pool.map(lambda document: furnish(testbed, document), drawn):
            index.put_namespace(parse_namespace(namespace))
            stores += near
    for created in stores:
        index.put_store(parse_store(created))

    def are_ready() -> bool:
        found = {**ready(testbed, "SecretStore"), **ready(testbed, "ClusterSecretStore")}
        return len(found) == len(stores) and all(found.values())

    wait_for(are_ready, 30, "external-secrets accepts every store", poll=0.2)
    return index


def read_cases(testbed: Testbed, index: Index, documents: Sequence[Json]) -> list[Case]:
    judged = ready(testbed, "ExternalSecret")
    asked = asked_by_token(testbed)
    return [
        Case(
            document=document,
            asked=frozenset(asked[token_of(document["metadata"]["namespace"])]),
            ready=judged[f"{document['metadata']['namespace']}/app"],
            steps=resolve(index, document),
        )
        for document in documents
    ]


def asked_by_token(testbed: Testbed) -> dict[str, set[Asked]]:
    """The requests to Vault in KV mounts."""
    asked: dict[str, set[Asked]] = defaultdict(set)
    for line in (testbed.work / "equivalence.log").read_text().splitlines():
        entry = json.loads(line)
        request = entry["request"]
        if entry["type"] == "request" and not request["path"].startswith("auth/token/"):
            asked[request.get("client_token", "")].add(Asked(request["operation"], request["path"]))
    return asked


def resolve(index: Index, document: Json) -> list[Entry]:
    """Resolves each entry separately; together they must equal the resolution of the whole ExternalSecret."""
    spec: Json = document["spec"]
    steps = [
        put(index, {**document, "spec": {**spec, "data": [], "dataFrom": [], field: [entry]}})
        for field in ("dataFrom", "data")
        for entry in spec.get(field, [])
    ]
    whole = put(index, document)
    assert whole.references.keys() == {path for step in steps for path in step.references}
    assert whole.prefixes == frozenset[Any]().union(*(step.prefixes for step in steps))
    return steps


def put(index: Index, document: Json) -> Entry:
    external_secret = parse_external_secret(document)
    index.put(external_secret)
    entry = index.entry(external_secret.name)
    assert entry is not None
    return entry


def summary(cases: Sequence[Case]) -> str:
    """How many ExternalSecrets agree, by the kinds of their entries."""
    counts: Counter[str] = Counter()
    for case in cases:
        spec = case.document["spec"]
        entries = [*spec.get("data", []), *spec.get("dataFrom", [])]
        kinds = "+".join(
            sorted({kind for entry in entries for kind in ("remoteRef", "extract", "find") if kind in entry})
        )
        outcome = (
            ("equal" if case.asked else "both nothing") if case.agrees else "refused" if case.refused else "differ"
        )
        counts[f"{kinds}: {outcome}"] += 1
    return "\n".join(f"{number:4} {what}" for what, number in sorted(counts.items()))
