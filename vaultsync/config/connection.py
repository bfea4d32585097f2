"""How connections to Vault and the API server are made: TLS files, which vault/tls.py reloads, and HTTP proxies."""

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files and the name of the server.

    Attributes:
        ca: bundle to trust; None: the system's.
        certificate: the client certificate; None: none.
        key: its key; None: in the file of the certificate.
        server_name: the name that Vault's certificate must have, also sent as SNI; None: the host of the address.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that are set."""
        return tuple(file for file in (self.ca, self.certificate, self.key) if file is not None)

    def load(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            OSError: a file can't be read, or certificate and key do not belong together.
        """
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            # with a password, as OpenSSL asks for that of an encrypted key on the terminal otherwise
            context.load_cert_chain(self.certificate, self.key, password="")
        return context


def environment_proxy(address: str) -> str | None:
    """The proxy by http_proxy or https_proxy for an address, None if there is none or no_proxy excludes the address."""
    url = urlsplit(address)
    return None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)
