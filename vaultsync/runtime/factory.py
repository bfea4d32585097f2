"""Creates the objects that `run` and the commands that run once need from the settings. Starts nothing."""

from vaultsync.config.settings import Settings
from vaultsync.controller.index import Index, server_identity
from vaultsync.core.decide import Defaults
from vaultsync.vault.login import Login
from vaultsync.vault.tls import Tls
from vaultsync.vault.transport import VaultAccess


def create_login(settings: Settings) -> Login:
    """The login to Vault; it sends no request yet."""
    access = VaultAccess(
        address=settings.vault_addr,
        namespace=settings.vault_namespace,
        timeout=settings.vault_timeout,
        tls=Tls(settings.tls),
        servers=settings.store_servers,
    )
    return Login(access, settings.auth)


def create_index(settings: Settings) -> Index:
    """An empty index."""
    servers = frozenset(map(server_identity, settings.servers))
    return Index(servers, settings.seed, Defaults(settings.generate, settings.rotate_after))
