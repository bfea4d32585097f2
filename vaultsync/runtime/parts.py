"""Parts made from the settings, for `run` and for the commands that look once. Starts nothing."""

from vaultsync.config.audit_access import AuditAccess
from vaultsync.config.selection import Selection
from vaultsync.config.settings import Settings
from vaultsync.controller.index import Index, server_identity
from vaultsync.core.decide import Defaults
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.kube.client import KubeClient
from vaultsync.kube.election import TIMING
from vaultsync.kube.leader_label import LeaderLabel
from vaultsync.vault.login import Login
from vaultsync.vault.tls import Tls
from vaultsync.vault.transport import VaultAccess


def login(settings: Settings) -> Login:
    """The login to Vault, which nobody has done yet."""
    return Login(
        VaultAccess(
            address=settings.vault_addr,
            namespace=settings.vault_namespace,
            timeout=settings.vault_timeout,
            tls=Tls(
                settings.vault_cacert,
                settings.vault_client_cert,
                settings.vault_client_key,
                settings.vault_tls_server_name,
            ),
            servers=settings.store_servers,
        ),
        settings.login_method(),
    )


def audit_access(settings: Settings) -> AuditAccess:
    """Where and how the entries of Vault's audit device are received."""
    return AuditAccess(
        listen=settings.audit_listen,
        file=settings.audit_file,
        allowed=settings.audit_allow,
        certificate=settings.audit_tls_cert,
        key=settings.audit_tls_key,
    )


def labels_leader(settings: Settings) -> bool:
    """Whether the leader labels its pod: where a Service has to find the pod's audit port."""
    _, _, port = settings.audit_listen.rpartition(":")
    return bool(settings.lease and not settings.dry_run and settings.pod_name and port.isdecimal())


def leader_label(settings: Settings, kube: KubeClient) -> LeaderLabel | None:
    """What labels the leader's pod, None where no Service has to find it."""
    if not labels_leader(settings):
        return None
    namespace, _, _ = settings.lease.partition("/")
    return LeaderLabel(kube.unfenced(TIMING.request), namespace, settings.pod_name)


def index(settings: Settings) -> Index:
    """An index that knows no object yet."""
    servers = frozenset(server_identity(server) for server in (settings.vault_addr, *settings.store_servers))
    return Index(servers, settings.seed, Defaults(settings.generate, settings.rotate_after))


def seed_paths(settings: Settings) -> SeedPaths:
    """Where a namespace may have something created."""
    return SeedPaths.parse(settings.seed_paths, settings.vault_namespace)


def selection(settings: Settings) -> Selection:
    """The namespaces and ExternalSecrets that the settings select."""
    return Selection(settings.namespaces, settings.namespace_selector, settings.selector)
