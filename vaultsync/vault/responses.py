"""Translates Vault's responses: the JSON of a success, or a typed error. Sends no request itself."""

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

from urllib3.exceptions import HTTPError

from vaultsync.core.callbacks import CountRequest, ignore
from vaultsync.core.errors import (
    RedirectRefused,
    RequestImpossible,
    VaultDenied,
    VaultRejected,
    VaultsyncError,
    VaultThrottled,
    VaultUnavailable,
    VaultUntrusted,
)
from vaultsync.core.untrusted import mapping
from vaultsync.vault.transport import Response

LONGEST_PATH: Final = 500
"""Characters of a path in a message."""


def execute(
    send: Callable[[], Response], address: str, method: str = "GET", count_request: CountRequest = ignore
) -> Response:
    """Send a request to an address through hvac, count it, and return the response whatever its status.

    Raises:
        VaultUnavailable: there is no response.
        RequestImpossible: nothing was sent.
        RedirectRefused: the response is a redirect that is not followed.
    """
    status = 0
    failure: VaultsyncError
    try:
        response = send()
        status = response.status
        return response
    except RedirectRefused as error:
        status = error.status
        raise
    except HTTPError as error:
        inner = _innermost(error)
        kind = VaultUntrusted if isinstance(inner, ssl.SSLCertVerificationError) else VaultUnavailable
        failure = kind(f"no answer from Vault at {address}: {_cause(inner)}")
    except ValueError as error:  # of http.client, before it sends: a header that Latin-1 has no characters for
        failure = RequestImpossible(f"the request can't be built: {type(error).__name__}")
    except OSError as error:  # such as a deleted CA file
        failure = VaultUnavailable(f"can't send a request to Vault at {address}: {type(error).__name__}: {error}")
    finally:
        count_request(method, status)
    raise failure  # outside the except block: the original error may hold values and the token


def content(response: Response, path: str, *, missing_ok: bool = False) -> dict[str, Any]:
    """The JSON of a success, {} if it has none; with `missing_ok` also that of Vault's own 404 about a secret.

    Raises:
        VaultUnavailable, VaultDenied, VaultRejected, VaultThrottled: it is no success, or not Vault's; with Vault's own
            message.
    """
    if response.status == 204:
        return {}
    document = mapping(response.document)
    if response.status == 200 and ("data" in document or "auth" in document):
        return document
    if response.status < 300:
        raise VaultUnavailable(f"a response that is not Vault's on {path}", response.status)
    known = document if "errors" in document or "data" in document else None
    if missing_ok and response.status == 404 and known is not None and _is_missing(known):
        return known
    raise _error(response, known, path)


def _is_missing(document: Mapping[str, Any]) -> bool:
    """Whether a 404 is about the secret; one with only a warning is about a path of the other KV version."""
    return not document.get("errors") and ("errors" in document or document.get("data") is not None)


def _error(response: Response, document: Mapping[str, Any] | None, path: str) -> VaultsyncError:
    """The error for a status (https://developer.hashicorp.com/vault/api-docs#http-status-codes)."""
    status = response.status
    errors = (document or {}).get("errors") or (document or {}).get("warnings")
    reasons = "; ".join(_reason(line) for line in (errors if isinstance(errors, list) else [errors or ""]))
    message = f"Vault returned {status}: {reasons[:300] or 'no reason given'} on {path[:LONGEST_PATH]}"
    if status in (401, 403):
        return VaultDenied(message)
    if status == 429:
        return VaultThrottled(message, response.retry_after)
    if 400 <= status < 500 and status not in (408, 412, 472, 473) and document is not None:
        return VaultRejected(message, status)
    return VaultUnavailable(message, status, is_vaults=document is not None)


def _reason(line: object) -> str:
    """Unwrap an error of Vault: "1 error occurred:", then a list with the reasons."""
    parts = [part.strip() for part in str(line).split("\n") if part.strip()]
    items = [part.removeprefix("* ") for part in parts if part.startswith("* ")]
    return "; ".join(items or parts)


def _innermost(error: BaseException) -> BaseException:
    """The first cause of an error."""
    while (deeper := error.__cause__ or error.__context__ or _wrapped(error)) is not None:
        error = deeper
    return error


def _cause(inner: BaseException) -> str:
    """The message of an error of the operating system, only the class of others, as these may quote the request."""
    words = isinstance(inner, OSError) and not isinstance(inner, HTTPError)
    return f"{type(inner).__name__}: {inner}"[:200] if words else type(inner).__name__


def _wrapped(error: BaseException) -> BaseException | None:
    """The error of TLS, which urllib3 passes as an argument."""
    return next((argument for argument in error.args if isinstance(argument, OSError)), None)
