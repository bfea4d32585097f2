"""The shipped manifests, and the permissions in them and in rules."""

from pathlib import Path
from typing import Any

import yaml

from vaultsync.commands.check.rbac import DEFAULT_LEASE, RbacRule, leader_rules

DEPLOY = Path(__file__).parents[4] / "deploy"


Rules = set[tuple[str, str, str]]


def shipped(file: str, kind: str) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all((DEPLOY / file).read_text())
    return [one for one in documents if one["kind"] == kind]


def granted(rules: list[dict[str, Any]]) -> Rules:
    """Group, resource and verb of each."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(listed: tuple[RbacRule, ...]) -> Rules:
    return {(right.group, right.resource, verb) for right in listed for verb in right.verbs}


LEADING = leader_rules(DEFAULT_LEASE, labels=True)


def by_name(rules: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """The resource and verb of each rule, with the name that limits it after a slash."""
    return {
        (f"{resource}{name}", verb)
        for rule in rules
        for resource in rule["resources"]
        for name in [f"/{name}" for name in rule.get("resourceNames", ())] or [""]
        for verb in rule["verbs"]
    }
