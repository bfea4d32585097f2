"""The HTTP proxy that the environment names (http_proxy, https_proxy, no_proxy), for Kubernetes and Vault alike."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def environment_proxy(address: str) -> str | None:
    """The proxy for an address, None if there is none or no_proxy excludes the address."""
    url = urlsplit(address)
    return None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)
