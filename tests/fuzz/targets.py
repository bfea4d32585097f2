"""The fuzz targets and their invariants for any input. Each target raises on a violation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress

from vaultsync.core.errors import RedirectRefused
from vaultsync.core.events import BadFrame, parse_audit_entry, parse_event
from vaultsync.core.external_secret import parse_external_secret, parse_namespace, parse_store
from vaultsync.generation.rule_parser import MAX_PROPERTIES, parse_rules
from vaultsync.generation.rules import RuleError
from vaultsync.vault.redirects import Address, choose, target

MESSAGE_LENGTH = 600
"""Maximum length of a refusal: it is shown on the object, and quotes little."""


def annotation(data: bytes) -> None:
    """Rules are read whole or refused with a readable message."""
    text = data.decode(errors="surrogateescape")
    try:
        rules = parse_rules(text)
    except RuleError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) <= MESSAGE_LENGTH, message
        return
    assert len(rules.named) <= MAX_PROPERTIES
    assert parse_rules(text) == rules
    for name in rules.named:
        assert rules.rule_for(name) is not None
        assert name not in rules.siblings(name)


def event(data: bytes) -> None:
    """A frame of the event stream is an event of a path, or refused."""
    with suppress(BadFrame):
        found = parse_event(data)
        assert found.path.path


def audit(data: bytes) -> None:
    """A line of an audit device yields changed paths, or nothing; it never raises."""
    entry = parse_audit_entry(data)
    for found in entry.events:
        assert found.path.path
        assert found.version >= 0
    change = entry.mounts
    assert change is None or change.mount is None or change.mount.path.endswith("/")


def redirect(data: bytes) -> None:
    """A `Location` leads to a known address, or is refused with a message that quotes no more than an origin of it."""
    trail = [Address("http", "vault.test", 8200, "")]
    known = [*trail, Address("https", "node.test", 8200, "/x")]
    try:
        wanted = target("GET", trail, "/v1/a", 307, [data.decode("latin-1")])
    except RedirectRefused as error:
        message = str(error)
        assert message.isascii(), message
        assert message.isprintable(), message
        assert len(message) <= MESSAGE_LENGTH, message
        return
    found = choose(wanted, known)
    assert found is None or found.origin in {one.origin for one in known}


def objects(data: bytes) -> None:
    """Every object of the API server is reduced without an error."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(document, Mapping):
        parse_external_secret(document)
        parse_store(document)
        parse_namespace(document)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "annotation": annotation,
    "event": event,
    "audit": audit,
    "redirect": redirect,
    "objects": objects,
}

SEEDS: Mapping[str, tuple[str, ...]] = {
    "annotation": (
        'password: {format: password, length: 40, symbols: "!#%+", digits: 4, exclude: "O0Il"}',
        '{"a": {"format": "hex", "bytes": 32}, "*": {"format": "uuid"}}',
        "u: {value: x}\nurl: {template: '{{ .u }}:{{ .p | urlquery }}@db'}\nk: {format: rsa, bits: 2048, public: p}",
    ),
    "event": (
        '{"data": {"event_type": "kv-v2/data-write", "event": {"metadata": {"path": "secret/data/a", "data_path": '
        '"secret/data/a", "current_version": "2"}}, "plugin_info": {"mount_path": "secret/"}}, '
        '"time": "2026-01-01T00:00:00Z"}',
    ),
    "audit": (
        '{"type": "response", "request": {"operation": "delete", "path": "secret/data/a", "mount_type": "kv"}, '
        '"response": {}}',
        '{"time": "2026-01-01T00:00:00Z", "type": "response", "request": {"operation": "update", "path": '
        '"secret/data/a", "mount_point": "team/secret/", "mount_type": "kv", "namespace": {"id": "x", "path": '
        '"team/"}}, "response": {"data": {"version": 2, "created_time": "2026-01-01T00:00:00Z"}}}',
        '{"type": "response", "request": {"operation": "update", "path": "sys/mounts/kv1/tune"}, "response": {}}',
    ),
    "redirect": ("http://vault.test:8200/v1/a", "https://node.test:8200/x/v1/a", "//a:b@node.test/v1/a?x#y"),
    "objects": (
        '{"metadata": {"namespace": "a", "name": "b", "annotations": {"vaultsync.io/versions": "{}"}}, "spec": '
        '{"data": [{"remoteRef": {"key": "a", "property": "b"}}], "dataFrom": [{"find": {"path": "x"}}, '
        '{"extract": {}}]}}',
    ),
}
"""Inputs to start from, so that a short run gets past the first brace."""
