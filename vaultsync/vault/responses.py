"""What Vault's answers mean: the JSON of a success, or the error that says how to go on. Sends nothing by itself."""

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

from urllib3.exceptions import HTTPError

from vaultsync.core.callbacks import CountRequest
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
from vaultsync.vault.transport import Answer

LONGEST_PATH: Final = 500
"""Characters of a path in a message."""


def ask(send: Callable[[], Answer], address: str, path: str, *, missing_ok: bool = False) -> dict[str, Any]:
    """Send a request, and tell what came of it.

    Args:
        send: one request through hvac.
        address: of Vault, for messages.
        path: without /v1/, for messages.
        missing_ok: a 404 of Vault's own is an answer too.

    Returns:
        The JSON of a success, {} if it has none.

    Raises:
        VaultUnavailable, VaultDenied, VaultRejected, VaultThrottled: it is no success, or not Vault's; with Vault's own
            words.
    """
    return content(answered(send, address), path, missing_ok=missing_ok)


def answered(send: Callable[[], Answer], address: str) -> Answer:
    """Send a request, and have its answer, whatever that is.

    Args:
        send: one request through hvac.
        address: of Vault, for messages.

    Raises:
        VaultUnavailable: there is none.
        RequestImpossible: nothing was sent.
    """
    failure: VaultsyncError
    try:
        return send()
    except HTTPError as error:
        inner = _innermost(error)
        kind = VaultUntrusted if isinstance(inner, ssl.SSLCertVerificationError) else VaultUnavailable
        failure = kind(f"no answer from Vault at {address}: {_cause(inner)}")
    except ValueError as error:  # of http.client, before it sends: a header that Latin-1 has no characters for
        failure = RequestImpossible(f"the request can't be built: {type(error).__name__}")
    except OSError as error:  # such as a CA file that is gone
        failure = VaultUnavailable(f"can't ask Vault at {address}: {type(error).__name__}: {error}")
    raise failure  # out of the except block: what is raised there may hold values and the token


def counted(send: Callable[[], Answer], address: str, method: str, count_request: CountRequest) -> Answer:
    """The same as `answered`, and the request is counted by its status, 0 where there is no answer.

    Args:
        send: one request through hvac.
        address: of Vault, for messages.
        method: of HTTP, in capitals.
        count_request: counts it.

    Raises:
        VaultUnavailable, RequestImpossible: as `answered`.
        RedirectRefused: as the transport.
    """
    status = 0
    try:
        answer = answered(send, address)
        status = answer.status
    except RedirectRefused as error:
        status = error.status
        raise
    finally:
        count_request(method, status)
    return answer


def content(answer: Answer, path: str, *, missing_ok: bool = False) -> dict[str, Any]:
    """The JSON of a success, {} if it has none.

    Args:
        answer: Vault's.
        path: without /v1/, for messages.
        missing_ok: a 404 of Vault's own is an answer too.

    Raises:
        VaultUnavailable, VaultDenied, VaultRejected, VaultThrottled: it is no success, or not Vault's; with Vault's own
            words.
    """
    if answer.status == 204:
        return {}
    document = answer.document if isinstance(answer.document, dict) else {}
    if answer.status == 200 and ("data" in document or "auth" in document):
        return document
    if answer.status < 300:
        raise VaultUnavailable(f"an answer that is not Vault's on {path}", answer.status)
    known = document if "errors" in document or "data" in document else None
    if missing_ok and answer.status == 404 and known is not None and _is_missing(known):
        return known
    raise _error(answer, known, path)


def _is_missing(document: Mapping[str, Any]) -> bool:
    """Whether a 404 is about the secret. One with a warning alone is about a path of the other KV version."""
    return not document.get("errors") and ("errors" in document or document.get("data") is not None)


def _error(answer: Answer, document: Mapping[str, Any] | None, path: str) -> VaultsyncError:
    """The one place that tells what each of Vault's answers means (https://developer.hashicorp.com/vault/api-docs)."""
    status = answer.status
    errors = (document or {}).get("errors") or (document or {}).get("warnings")
    said = "; ".join(_said(line) for line in (errors if isinstance(errors, list) else [errors or ""]))
    message = f"Vault returned {status}: {said[:300] or 'no reason given'} on {path[:LONGEST_PATH]}"
    if status in (401, 403):
        return VaultDenied(message)
    if status == 429:
        return VaultThrottled(message, answer.retry_after)
    if 400 <= status < 500 and status not in (408, 412, 472, 473) and document is not None:
        return VaultRejected(message, status)
    return VaultUnavailable(message, status, is_vaults=document is not None)


def _said(line: object) -> str:
    """Vault wraps its errors: "1 error occurred:", then a list, whose items are what it says."""
    parts = [part.strip() for part in str(line).split("\n") if part.strip()]
    items = [part.removeprefix("* ") for part in parts if part.startswith("* ")]
    return "; ".join(items or parts)


def _innermost(error: BaseException) -> BaseException:
    """The first reason of a failed request."""
    while (deeper := error.__cause__ or error.__context__ or _wrapped(error)) is not None:
        error = deeper
    return error


def _cause(inner: BaseException) -> str:
    """The reason in words: only the operating system's own, as others quote the request."""
    words = isinstance(inner, OSError) and not isinstance(inner, HTTPError)
    return f"{type(inner).__name__}: {inner}"[:200] if words else type(inner).__name__


def _wrapped(error: BaseException) -> BaseException | None:
    """urllib3 hands on what TLS says as an argument."""
    return next((argument for argument in error.args if isinstance(argument, OSError)), None)
