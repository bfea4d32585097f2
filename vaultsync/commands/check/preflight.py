"""What `vaultsync check` asks, one thing after another, of Kubernetes and Vault. Writes to neither, and reads no value.

Where something fails, what needs it is not asked. What an answer means is for commands.check.report to say.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from vaultsync.commands.check import access, audit_devices
from vaultsync.commands.check import report as check
from vaultsync.commands.check.rbac import LEASE, Question, Right, leading, questions, rights
from vaultsync.commands.check.report import AuditFile, Hearing, Line, Mark, Name, Stream
from vaultsync.commands.check.setup import AUDIENCE, OWN, Account, Missing
from vaultsync.commands.planner import Explained, Survey
from vaultsync.commands.vault_policy import (
    DEFAULT_MOUNTS,
    STAND_IN,
    Asked,
    asked,
    parse_mounts,
    policy,
    stand_ins,
)
from vaultsync.config.auth import AuthConfig
from vaultsync.config.selection import Selection
from vaultsync.controller.index import Index
from vaultsync.core.decide import SeedChoice
from vaultsync.core.errors import (
    KubeDenied,
    KubeNotFound,
    KubeRejected,
    KubeUnavailable,
    NoCredential,
    RedirectRefused,
    VaultFailure,
    VaultNamespaceUnavailable,
    VaultRejected,
    VaultRequestFailed,
    VaultsyncError,
    VaultUnavailable,
    VaultUntrusted,
    first_reason,
)
from vaultsync.core.external_secret import FindRef, RemoteRef
from vaultsync.core.paths import Mount, VaultPath, guessed_mount, secret_path, v2_path
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.generation.rules import PolicyRule
from vaultsync.kube.client import KubeClient, NoKubeConfig
from vaultsync.kube.external_secrets import SERVED_VERSIONS, Served, takes_condition
from vaultsync.kube.informers import CLUSTER_STORES, EXTERNAL_SECRETS, STORES, Watches
from vaultsync.vault.api import CAPABILITIES, LOOK_UP, POLICY_NAME, SYS_AUDIT, Token
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.stream import EventStream

AT_ONCE: Final = 16
"""Reviews under way."""
MAX_PATHS: Final = 200
"""Of one mount, of which the token's capabilities are asked for; the others are like them."""
BATCH: Final = 100
"""Paths in one request for capabilities."""
STREAM_SECONDS: Final = 5.0
"""How long the event stream has to answer."""
AUDIT_LOOKS, AUDIT_SECONDS = 20, 0.05
"""How often, and how soon again, an audit file is looked at for a request that was made."""
NO_CONFIG: Final = "set KUBECONFIG to a kubeconfig file, or run it in a pod that has its ServiceAccount's token"
NO_CREDENTIALS: Final = (
    "take valid credentials: those of the kubeconfig, or of the pod's ServiceAccount, which must exist"
)
NO_DISCOVERY: Final = "bind the ClusterRole system:discovery, which lets everybody ask what is served"
NO_ANSWER: Final = "let the API server be reached from here, or name its address and CA in the file of KUBECONFIG"

Uses = dict[tuple[str, Mount], dict[str, bool]]
"""By Vault namespace and mount: the paths within it that are read, and whether each may have to be created."""


@dataclass(frozen=True, slots=True)
class Asking:
    """The settings, as far as something is asked because of them.

    Attributes:
        address: VAULT_ADDR.
        servers: that and VAULTSYNC_STORE_SERVERS.
        vault_namespace: the token's.
        seeds: whether anything is created.
        by_annotation: whether only for who asks for it.
        writes: whether anything is written to Kubernetes.
        hearing: of changes.
        streams: whether the event stream is used where there is one.
        way: how it logs in to Vault.
        lease: by which one of several replicas leads, "" where nobody is elected.
        labels: whether the leader labels its pod.
    """

    address: str
    servers: tuple[str, ...]
    vault_namespace: str
    selection: Selection
    seed_paths: SeedPaths
    seeds: bool
    by_annotation: bool
    writes: bool
    hearing: Hearing
    streams: bool
    way: AuthConfig = field(default_factory=AuthConfig)
    lease: str = ""
    labels: bool = False


@dataclass(slots=True)
class Checked:
    """What was found; what is not known is as if nothing were there.

    Attributes:
        lines: in the order in which they were asked.
        user: who it is to Kubernetes.
        mounts: in use.
        token: Vault's answer about it.
        version: Vault's.
        unasked: the Namespace of an ExternalSecret that could be seeded, where nobody asks for it.
    """

    lines: list[Line] = field(default_factory=list)
    user: str = ""
    mounts: tuple[Mount, ...] = ()
    token: Token | None = None
    version: str = ""
    unasked: str = ""

    def is_fine(self, name: Name) -> bool:
        """Whether all checks of that name came out well."""
        marks = {line.mark for line in self.lines if line.check is name}
        return marks == {Mark.OK}


class Checkup:
    """One run of all checks.

    Args:
        asking: the settings.
        login: of nobody yet.
        vault: is only asked.
        stream: as `run` would have it, not running.
        index: that of the survey.
        survey: to be filled.
    """

    def __init__(
        self,
        asking: Asking,
        login: Login,
        vault: VaultClient,
        stream: EventStream,
        index: Index,
        survey: Survey,
    ) -> None:
        self._asking = asking
        self._login = login
        self._vault = vault
        self._stream = stream
        self._index = index
        self._survey = survey
        self._found = Checked()
        self._no_mounts: list[Line] = []
        """Of the paths that are in no mount of KV."""
        self._is_told = False
        """Whether Vault tells the token what it may do."""
        self._unlisted = ""
        """What has to be mended before the stores and ExternalSecrets are known."""
        self._no_list = ""
        """Why they could not be listed, though that is allowed."""

    async def run(self, connect: Callable[[], Awaitable[KubeClient]]) -> Checked:
        """Ask everything.

        Args:
            connect: as kube.client.connect, of a client that only reads.
        """
        await self._kubernetes(connect)
        await self._ask_vault()
        uses: Uses = {}
        try:
            uses = await self._uses()
        except VaultUnavailable as error:  # it did answer a moment ago
            self._add(Line(Name.VAULT, Mark.FAILED, check.cut(str(error)), check.AGAIN))
            self._found.token = None
        self._found.mounts = tuple(sorted({mount for _, mount in uses})) if self._found.token else self._guessed()
        await self._source()
        self._add(*await self._audit())
        self._stores()
        await self._policies(uses)
        await self._external_secrets()
        return self._found

    def _add(self, *lines: Line) -> None:
        self._found.lines += lines

    # -- Kubernetes

    async def _kubernetes(self, connect: Callable[[], Awaitable[KubeClient]]) -> None:
        try:
            client = await connect()
        except NoKubeConfig as error:
            self._no_kubernetes(str(error), NO_CONFIG)
            return
        try:
            await self._ask_kubernetes(client)
        except KubeUnavailable as error:  # it may have answered a moment ago
            self._no_kubernetes(str(error), NO_ANSWER)
        finally:
            await client.close()

    def _no_kubernetes(self, problem: str, fix: str) -> None:
        self._unlisted = Name.KUBERNETES
        self._add(check.no_kubernetes(problem, fix))
        told = {line.check for line in self._found.lines}
        self._none_of(*(name for name in (Name.CRDS, Name.PERMISSION) if name not in told))

    def _none_of(self, *names: Name) -> None:
        self._add(*(check.not_asked(name, self._unlisted) for name in names))

    async def _ask_kubernetes(self, client: KubeClient) -> None:
        try:
            version = await access.version(client)
            self._found.user = await access.user(client)
        except KubeDenied as error:
            self._no_kubernetes(str(error), NO_CREDENTIALS)
            return
        self._add(check.kubernetes(client.server, version, self._found.user))
        best = await self._served(client)
        unlistable = await self._permissions(client, takes_condition=best is None or best.takes_condition)
        if best is None:
            self._unlisted = Name.CRDS
        elif unlistable:
            self._unlisted = f"{Name.PERMISSION} {unlistable}"
        else:
            await self._list(client, best.version)

    async def _served(self, client: KubeClient) -> Served | None:
        """What of external-secrets.io is served; None where it is of no use."""
        try:
            found = await access.resources(client, SERVED_VERSIONS)
        except KubeDenied as error:
            self._add(Line(Name.CRDS, Mark.FAILED, check.cut(str(error)), NO_DISCOVERY))
            return None
        line = check.crds(found, SERVED_VERSIONS, (EXTERNAL_SECRETS, STORES, CLUSTER_STORES))
        self._add(line)
        if line.mark is not Mark.OK:
            return None
        version = next(version for version in SERVED_VERSIONS if version in found)
        return Served(version, await takes_condition(client, version))

    async def _permissions(self, client: KubeClient, *, takes_condition: bool) -> str:
        """Ask for each right; returns a resource that may not be listed, "" where all may."""
        unlistable = ""
        asking = self._asking
        by_namespace = not asking.selection.takes_every_namespace
        watching = rights(writes=asking.writes, takes_condition=takes_condition)
        for right in (*watching, *leading(asking.lease, labels=asking.labels)):
            try:
                no = await _refused(client, questions(right, ()))
                if no and (names := await self._selected(client, right)):
                    verbs = {question.verb for question in no}
                    no = await _refused(client, [one for one in questions(right, names) if one.verb in verbs])
            except (KubeDenied, KubeNotFound, KubeRejected) as error:
                self._add(check.permission_unknown(right, str(error)))
                continue
            self._add(check.permission(right, no, self._found.user, by_namespace=by_namespace))
            if right in watching and any(question.verb == "list" for question in no):
                unlistable = unlistable or right.resource
        return unlistable

    async def _selected(self, client: KubeClient, right: Right) -> Sequence[str]:
        """The names of the only namespaces in which a right is used, none where it is used in all or can't be told."""
        selection = self._asking.selection
        if right.namespace:
            return ()
        if selection.namespaces:
            return selection.namespaces
        if not (selection.namespace_labels and right.in_namespaces):
            return ()
        with suppress(KubeDenied):
            return await access.namespaces(client, selection.namespace_labels)
        return ()

    async def _list(self, client: KubeClient, version: str) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                await Watches(tasks, client, version, self._asking.selection, self._survey, once=True).start()
        except* VaultsyncError as errors:
            self._unlisted, self._no_list = Name.STORES, first_reason(errors)

    # -- Vault

    async def _ask_vault(self) -> None:
        address = self._asking.address
        try:
            health = await self._vault.health()
        except (VaultUnavailable, RedirectRefused) as error:
            self._add(check.no_vault(address, str(error), untrusted=isinstance(error, VaultUntrusted)))
            self._add(check.not_asked(Name.LOGIN, Name.VAULT))
            return
        self._found.version = health.version
        line = check.vault(address, health)
        self._add(line)
        if line.mark is Mark.FAILED:
            self._add(check.not_asked(Name.LOGIN, Name.VAULT))
            return
        await self._log_in(self._asking.way)

    async def _log_in(self, way: AuthConfig) -> None:
        try:
            await self._login.log_in()
        except NoCredential as error:
            self._add(check.no_credential(str(error), way))
            return
        except VaultsyncError as error:
            self._add(check.no_login(str(error), way))
            return
        try:
            self._found.token = await self._login.look_up()
        except VaultsyncError as error:
            self._add(check.no_look_up(str(error), way) if way.issues else check.no_login(str(error), way))
        else:
            self._add(check.login(self._found.token, way))

    @property
    def _streams(self) -> bool:
        """Whether the event stream is, or could be, used."""
        return self._asking.streams and check.offers_stream(self._found.version)

    def _policy_fix(self, token: Token) -> str:
        return check.mend_policy(self._found.mounts or DEFAULT_MOUNTS, token, self._asking.way, streams=self._streams)

    # -- the source

    async def _source(self) -> None:
        token = self._found.token
        if token is None:
            self._add(check.not_asked(Name.SOURCE, Name.LOGIN))
            return
        stream = await self._try_stream() if self._asking.streams else Stream(connected=False)
        file = await self._try_file(self._asking.hearing.file) if self._asking.hearing.file else AuditFile()
        version = self._found.version
        self._add(check.source(self._asking.hearing, stream, file, version, self._policy_fix(token)))

    async def _audit(self) -> list[Line]:
        """Whether an audit device can block Vault, as far as the token may list them."""
        hearing, namespace = self._asking.hearing, self._asking.vault_namespace
        lines = audit_devices.listening(hearing)
        if self._found.token is None:
            return [*lines, check.not_asked(Name.AUDIT, Name.LOGIN)]
        try:
            path = SYS_AUDIT
            granted = (await self._vault.capabilities([path], namespace))[path]
            if "root" not in granted and not granted >= audit_devices.NEEDED:  # a refusal would alarm who reads the log
                return [*lines, audit_devices.unread()]
            listed = await self._vault.audit_devices(namespace)
        except VaultsyncError as error:
            return [*lines, audit_devices.unread(str(error))]
        return [*lines, *audit_devices.devices(hearing, audit_devices.parse_devices(listed))]

    async def _try_stream(self) -> Stream:
        """Subscribe, as `run` does, and let go again."""
        tried = asyncio.Event()
        self._stream.on_change = tried.set
        running = asyncio.create_task(self._stream.run())
        try:
            async with asyncio.timeout(STREAM_SECONDS):
                await tried.wait()
            return Stream(self._stream.is_connected, self._stream.is_refused, self._stream.reason)
        except TimeoutError:
            return Stream(connected=False, reason=f"no answer within {STREAM_SECONDS:g} s")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _try_file(self, path: str) -> AuditFile:
        """Whether it can be read, and whether a request that is made now appears in it."""
        try:
            before = await asyncio.to_thread(_size, path)
            await self._login.look_up()
            for _ in range(AUDIT_LOOKS):
                if await asyncio.to_thread(_size, path) != before:
                    return AuditFile(grew=True)
                await asyncio.sleep(AUDIT_SECONDS)
        except OSError as error:
            return AuditFile(problem=error.strerror or type(error).__name__)
        except VaultsyncError:
            pass
        return AuditFile()

    # -- stores, and what is read through them

    def _stores(self) -> None:
        if self._no_list:
            self._add(Line(Name.STORES, Mark.FAILED, check.cut(self._no_list), check.AGAIN))
            return
        if self._unlisted:
            self._none_of(Name.STORES)
            return
        others = {}
        ours = 0
        for store in self._index.stores():
            if self._index.is_ours(store):
                ours += 1
            elif store.server is not None:
                others[str(store.name)] = store.server
        self._add(check.stores(self._asking.servers, ours, dict(sorted(others.items()))))

    async def _uses(self) -> Uses:
        """The mounts in use, each with the paths that are read there and whether they may have to be created."""
        found: Uses = {}
        if self._unlisted or self._found.token is None:
            return found
        for path, kv in sorted(self._index.paths_with_kv()):
            mount = await self._enter(found, path, kv)
            if mount is not None and (inner := _inner(mount, path)):
                found[path.namespace, mount][inner] = self._creates(path, mount)
        for prefix in self._index.prefixes():
            path = VaultPath(prefix.namespace, prefix.prefix + STAND_IN)
            mount = await self._enter(found, path, prefix.kv)
            if mount is not None and (inner := _inner(mount, path)):
                found[path.namespace, mount].setdefault(inner, False)
        for store in self._index.stores():
            if store.path and self._index.is_ours(store):
                path = VaultPath(store.vault_namespace, secret_path(store.path, store.kv, STAND_IN))
                await self._enter(found, path, store.kv)
        return found

    def _guessed(self) -> tuple[Mount, ...]:
        """The mounts that stores and ExternalSecrets seem to name, while Vault can't be asked."""
        named = [guessed_mount(path.path, kv) for path, kv in self._index.paths_with_kv()]
        stores = (store for store in self._index.stores() if store.path and self._index.is_ours(store))
        named += [Mount(f"{store.path}/", store.kv) for store in stores]
        found: dict[str, Mount] = {}
        for mount in sorted(set(named)):
            with suppress(ValueError):  # whoever makes a store writes there what they like
                for one in parse_mounts([f"{mount.path}=v{mount.kv}"]):
                    found.setdefault(one.path, one)
        return tuple(found.values())

    async def _enter(self, found: Uses, path: VaultPath, kv: int) -> Mount | None:
        """Take in the path's mount, which is asked for once; None where there is none."""
        known = (where for where in found if where[0] == path.namespace and path.path.startswith(where[1].path))
        try:
            mount = next((mount for _, mount in known), None) or await self._vault.mount(path, kv)
        except (VaultRejected, VaultRequestFailed, VaultNamespaceUnavailable) as error:
            self._no_mounts.append(check.no_mount(str(path), str(error)))
            return None
        found.setdefault((path.namespace, mount), {})
        return mount

    def _creates(self, path: VaultPath, mount: Mount) -> bool:
        """Whether some reader may have it created."""
        if not self._asking.seeds:
            return False
        wanting = {reader.name.namespace for reader in self._index.readers(path) if reader.choice is SeedChoice.WANTED}
        spaces = (self._index.namespace(name) for name in wanting)
        return any(space and not self._asking.seed_paths.refusal(path, mount, space) for space in spaces)

    async def _policies(self, uses: Uses) -> None:
        token = self._found.token
        if token is None or token.is_root:
            self._add(check.not_asked(Name.POLICY, Name.LOGIN))
            return
        asking, fix = self._asking, self._policy_fix(token)
        self._add(await self._policy(asking.vault_namespace, check.OF_ITS_OWN, self._own(token), fix))
        for (namespace, mount), paths in sorted(uses.items()):
            place = f"{namespace}:{mount.path}" if namespace else mount.path
            if self._is_told:  # in another Vault namespace it may still be refused
                wanted = self._wanted(namespace, mount, paths)
                self._add(await self._policy(namespace, place, wanted, fix, len(paths)))
            else:
                self._add(check.not_asked(Name.POLICY, f"{Name.POLICY} {check.OF_ITS_OWN}", place))
        self._add(*self._no_mounts[: check.SHOWN])
        if self._unlisted:
            self._add(check.not_asked(Name.POLICY, self._unlisted, "mounts"))

    async def _policy(self, namespace: str, place: str, wanted: Sequence[Asked], fix: str, in_all: int = 0) -> Line:
        granted: dict[str, frozenset[str]] = {}
        paths = [one.path for one in wanted]
        try:
            for start in range(0, len(paths), BATCH):
                granted |= await self._vault.capabilities(paths[start : start + BATCH], namespace)
        except VaultFailure as error:
            return Line(Name.POLICY, Mark.FAILED, check.cut(str(error)), check.AGAIN, place)
        except VaultsyncError as error:
            return check.policy_unknown(place, str(error), fix)
        self._is_told = True
        return check.policy(place, wanted, granted, fix, min(in_all, MAX_PATHS), in_all)

    def _own(self, token: Token) -> list[Asked]:
        """What is asked of Vault itself, and what would let the token give itself more."""
        wanted = {
            LOOK_UP: ("read", True),
            "auth/token/renew-self": ("update", token.ttl > 0),
            "auth/token/revoke-self": ("update", self._login.issues),
            CAPABILITIES: ("update", True),
            **{f"sys/policies/password/{name}/generate": ("read", True) for name in sorted(self._password_policies())},
        }
        if self._streams:
            wanted["sys/events/subscribe/kv*"] = ("read", True)
        nothing: frozenset[str] = frozenset()
        own = [
            Asked(path, frozenset({one}) if is_needed else nothing, frozenset({one}))
            for path, (one, is_needed) in wanted.items()
        ]
        forbidden = (f"sys/policies/acl/{token.policy or POLICY_NAME}", "auth/token/create")
        return own + [Asked(path, nothing, nothing) for path in forbidden]

    def _password_policies(self) -> frozenset[str]:
        if not self._asking.seeds:
            return frozenset()
        entries = (entry for name in self._index.names() if (entry := self._index.entry(name)) is not None)
        wanting = (entry for entry in entries if self._index.choice(entry)[0] is SeedChoice.WANTED)
        written = (rule for entry in wanting for _, rule in (*entry.rules.written, *self._index.defaults.rules.written))
        return frozenset(rule.name for rule in written if isinstance(rule, PolicyRule))

    def _wanted(self, namespace: str, mount: Mount, paths: Mapping[str, bool]) -> list[Asked]:
        """What is to be asked for in a mount."""
        used = sorted(paths.items(), key=lambda item: not item[1])[:MAX_PATHS]  # those to be created first
        asking = self._asking
        stood_in = [
            (inner, creates)
            for inner, creates in stand_ins(asking.seed_paths, mount, namespace).items()
            if not used or (creates and asking.seeds and not used[0][1])
        ]
        streams = self._streams and check.knows_subscribe(self._found.version)
        found: dict[str, Asked] = {}
        for inner, creates in (*used, *stood_in):
            for one in asked(mount, inner, creates=creates and asking.seeds, seeds=asking.seeds, streams=streams):
                known = found.get(one.path)
                found[one.path] = one if known is None else Asked(one.path, one.needed | known.needed, one.most)
        return list(found.values())

    async def _external_secrets(self) -> None:
        if self._unlisted or self._found.token is None:
            self._add(check.not_asked(Name.EXTERNAL_SECRETS, self._unlisted or Name.LOGIN))
            return
        explained: list[Explained] = []
        failed = ""
        try:
            explained = await self._survey.explain()
        except* VaultsyncError as errors:
            failed = first_reason(errors)
        if failed:
            self._add(Line(Name.EXTERNAL_SECRETS, Mark.FAILED, check.cut(failed), check.AGAIN))
            return
        reading = [one for one in explained if self._reads(one)]
        wanted = [one for one in reading if one.choice is SeedChoice.WANTED]
        blocked = [(str(one.name), problem) for one in explained if (problem := self._problem(one))]
        by_annotation = self._asking.seeds and self._asking.by_annotation
        self._found.unasked = reading[0].name.namespace if by_annotation and reading and not wanted else ""
        self._add(check.external_secrets(len(reading), len(wanted), blocked, self._found.unasked))

    def _reads(self, explained: Explained) -> bool:
        entry = self._index.entry(explained.name)
        return entry is not None and bool(entry.references or entry.prefixes)

    def _problem(self, explained: Explained) -> str:
        """What blocks an ExternalSecret, "" if nothing: not that it is another Vault's, nor that nobody asks for it."""
        entry = self._index.entry(explained.name)
        if entry is None or explained.problem:
            return explained.problem
        everything: tuple[RemoteRef | FindRef, ...] = (*entry.object.refs, *entry.object.finds)
        stores = {one.field: self._index.store(one.store) for one in everything}
        for finding in explained.findings:
            store = stores.get(finding.field)
            is_foreign = store is not None and not self._index.is_ours(store)
            is_refused = bool(finding.path) and finding.presence is None
            if finding.problems and (is_refused or (explained.choice is SeedChoice.WANTED and not is_foreign)):
                return finding.problems[0]
        return ""


async def _refused(client: KubeClient, asked: Sequence[Question]) -> list[Question]:
    """Those that are answered with no."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def is_refused(question: Question) -> bool:
        async with gate:
            return not await access.may(client, question)

    answers = await asyncio.gather(*map(is_refused, asked))
    return [question for question, no in zip(asked, answers, strict=True) if no]


def missing(asking: Asking, found: Checked) -> Missing:
    """What --print-setup sets up: all that did not come out well, or was not asked, and is one's own.

    A person's rights in Kubernetes say nothing of those of vaultsync: they are all set up.

    Args:
        asking: the settings.
        found: of a checkup; without one, nothing is there yet.

    Raises:
        ValueError: a glob of VAULTSYNC_SEED_PATHS is for none of the mounts.
    """
    account = Account.of(found.user)
    token = found.token
    name = (token.policy if token else "") or POLICY_NAME
    grants = not found.is_fine(Name.POLICY)
    way, is_other = asking.way, grants and token is not None and not token.policy
    streams = asking.streams and (not found.version or check.offers_stream(found.version))
    mounts = found.mounts or DEFAULT_MOUNTS
    return Missing(
        account=account or OWN,
        crds=bool(found.lines) and not found.is_fine(Name.CRDS) and found.is_fine(Name.KUBERNETES),
        # all of them: another version of external-secrets may take the condition
        rights=()
        if account and found.is_fine(Name.PERMISSION)
        else (*rights(writes=asking.writes, takes_condition=True), *_leading(asking, account)),
        namespaces=asking.selection.namespaces,
        policy=policy(asking.seed_paths, mounts, seeds=asking.seeds, streams=streams) if grants else "",
        policy_name=name,
        way=way,
        login=not found.is_fine(Name.LOGIN) or (is_other and not way.issues),
        is_other=is_other,
        audience="" if account and not way.jwt_file else AUDIENCE,
        audit="" if found.is_fine(Name.SOURCE) else audit_devices.enable(asking.hearing),
        devices=[line.fix for line in found.lines if line.check is Name.AUDIT and line.mark is Mark.FAILED],
        seeded=found.unasked or ("" if found.lines else "NAMESPACE"),
        address=asking.address if found.lines else "",
        vault_namespace=asking.vault_namespace,
    )


def _leading(asking: Asking, account: Account | None) -> tuple[Right, ...]:
    """The rights in its own namespace. A person's shell does not have what deploy/base sets in the pod."""
    if account:
        return leading(asking.lease, labels=asking.labels)
    return leading(asking.lease or LEASE, labels=True) if asking.writes else ()


def _inner(mount: Mount, path: VaultPath) -> str:
    """A path within its mount, "" where it is no secret's."""
    return (v2_path(mount, path.path) or "") if mount.kv == 2 else path.path.removeprefix(mount.path)


def _size(path: str) -> int:
    """Of a file that can be read.

    Raises:
        OSError: it can't.
    """
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size
