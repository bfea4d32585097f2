"""Parts made from the settings, for `run` and for the commands that run once. Starts nothing."""

from vaultsync.config.settings import Settings
from vaultsync.controller.index import Index, server_identity
from vaultsync.core.decide import Defaults
from vaultsync.kube.client import KubeClient
from vaultsync.kube.election import TIMING
from vaultsync.kube.leader_label import LeaderLabel
from vaultsync.vault.auth_methods import auth_method
from vaultsync.vault.login import Login
from vaultsync.vault.tls import Tls
from vaultsync.vault.transport import VaultAccess


def login(settings: Settings) -> Login:
    """The login to Vault, which sends nothing yet."""
    access = VaultAccess(
        address=settings.vault_addr,
        namespace=settings.vault_namespace,
        timeout=settings.vault_timeout,
        tls=Tls(settings.tls),
        servers=settings.store_servers,
    )
    return Login(access, auth_method(settings.auth))


def leader_label(settings: Settings, kube: KubeClient) -> LeaderLabel | None:
    """The writer of the label on the leader's pod, None where no Service selects that."""
    if not settings.labels_leader:
        return None
    namespace, _, _ = settings.lease.partition("/")
    return LeaderLabel(kube.unfenced(TIMING.request), namespace, settings.pod_name)


def index(settings: Settings) -> Index:
    """An empty index."""
    servers = frozenset(map(server_identity, settings.servers))
    return Index(servers, settings.seed, Defaults(settings.generate, settings.rotate_after))
