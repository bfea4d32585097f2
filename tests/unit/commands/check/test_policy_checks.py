"""Results of the checks of the policy, and the paths that are checked."""

from dataclasses import replace

import pytest

from tests.unit.build import V1, V2
from vaultsync.commands.check.policy_checks import check_policy, policy_fix
from vaultsync.commands.check.report import Check, CheckResult, Status
from vaultsync.commands.policy import PathCapabilities, needed_capabilities, placeholder_paths
from vaultsync.config.auth import AuthConfig
from vaultsync.core.seed_paths import DEFAULT, SeedPaths
from vaultsync.vault.api import Token

FIX = "vaultsync policy | vault policy write vaultsync -"
GOOD = Token(("default", "vaultsync"), 3600.0, True, 86400.0, 0.0, True, 0)


def test_the_checked_capabilities_are_those_of_the_policy() -> None:
    found = {one.path: one for one in needed_capabilities(V2, "dev-1/db", creates=True, seeds=True, streams=True)}
    writes = {"create", "update", "patch", "subscribe"}
    assert found["secret/data/dev-1/db"] == PathCapabilities(
        "secret/data/dev-1/db", frozenset(writes), frozenset(writes)
    )
    assert found["secret/subkeys/dev-1/db"].needed == {"read"}
    assert found["secret/metadata/dev-1/db"].needed == {"patch", "subscribe"}
    assert found["secret/metadata/dev-1/"].needed == {"list"}
    assert len(found) == 4
    old = {one.path: one.needed for one in needed_capabilities(V1, "a", creates=True, seeds=True, streams=False)}
    assert old == {"kv1/a": {"create"}, "kv1/": {"list"}}


def test_a_path_that_is_only_read_needs_less_but_may_have_more() -> None:
    found = {one.path: one for one in needed_capabilities(V2, "a", creates=False, seeds=True, streams=False)}
    data = found["secret/data/a"]
    assert not data.needed
    assert data.most == {"create", "update", "patch", "subscribe"}
    off = {one.path: one for one in needed_capabilities(V2, "a", creates=False, seeds=False, streams=False)}
    assert off["secret/data/a"].most == {"subscribe"}
    assert off["secret/metadata/a"].most == {"list", "subscribe"}


@pytest.mark.parametrize(
    ("globs", "found"),
    [
        (DEFAULT, {"vaultsync-check": True}),
        (["*/apps/{namespace}/**"], {"apps/vaultsync-check/vaultsync-check": True}),
        (["*/apps/db-*"], {"apps/db-vaultsync-check": True}),
        (["other/apps/x"], {"vaultsync-check": False}),
        (["team:*/x/y"], {"vaultsync-check": False}),
    ],
)
def test_stand_ins(globs: list[str], found: dict[str, bool]) -> None:
    assert placeholder_paths(SeedPaths.parse(globs), V2, "") == found


@pytest.mark.parametrize(
    ("policies", "name"),
    [
        (("default", "vaultsync"), "vaultsync"),
        (("team-vaultsync",), "team-vaultsync"),
        (("admin",), ""),
        (("vaultsync", "vaultsync-2"), ""),
        (("root",), ""),
    ],
)
def test_no_policy_is_overwritten_that_is_not_vaultsyncs(policies: tuple[str, ...], name: str) -> None:
    token = replace(GOOD, policies=policies)
    assert token.policy == name
    fix = policy_fix([V2, V1], token, AuthConfig(), streams=False)
    assert fix.startswith("VAULTSYNC_SOURCE=poll vaultsync policy --mount secret --mount kv1=v1 | vault policy write ")
    assert fix.split("write ")[1].startswith(f"{name or 'vaultsync'} -")
    assert ("vault token create" in fix) == (not name)


def test_policies() -> None:
    wanted = [
        PathCapabilities(f"secret/data/{number}", frozenset({"create"}), frozenset({"create", "update"}))
        for number in range(6)
    ]

    def told(listed: set[str]) -> CheckResult:
        return check_policy("secret/", wanted, {one.path: frozenset(listed) for one in wanted}, FIX, 250)

    assert told({"create"}) == CheckResult(
        Check.POLICY,
        Status.OK,
        "all that is needed, and no more (checked for 200 of 250 paths in use)",
        subject="secret/",
    )
    assert told({"create", "update"}).status is Status.OK
    less, more = told({"update", "read"}), told({"create", "sudo", "read"})
    assert (less.status, less.fix) == (Status.FAILED, FIX)
    assert less.found == (
        "may not create on secret/data/0, create on secret/data/1, create on secret/data/2 and on 3 more"
    )
    assert more.status is Status.WARNING
    assert more.found.startswith("all that is needed, but it may also read, sudo on secret/data/0, ")
