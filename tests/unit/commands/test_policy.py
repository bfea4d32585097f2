"""commands/policy: the policy for globs, modes, mounts and Vault namespaces.

A small evaluator of Vault's priorities interprets the policy; tests/integration/test_policy.py uses Vault itself.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from vaultsync.cli import main
from vaultsync.commands.policy import DEFAULT_MOUNTS, parse_mounts, policy
from vaultsync.core.external_secret import Namespace
from vaultsync.core.paths import Mount, VaultPath
from vaultsync.core.seed_paths import DEFAULT, SeedPaths

SHIPPED = Path(__file__).parents[3] / "deploy" / "vault" / "policy.hcl"
SHIPPED_MOUNTS = ["--mount", "secret", "--mount", "team/kv", "--mount", "kv1=v1"]
SECRET, TEAM, OLD = Mount("secret/", 2), Mount("team/kv/", 2), Mount("kv1/", 1)
WRITES = {"create", "update", "patch"}
STREAM = "sys/events/subscribe/*"
ALWAYS = {
    STREAM: {"read"},
    "auth/token/lookup-self": {"read"},
    "auth/token/renew-self": {"update"},
    "auth/token/revoke-self": {"update"},
    "sys/capabilities-self": {"update"},
}
PASSWORDS = {"sys/policies/password/+/generate": {"read"}}

Blocks = dict[str, set[str]]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("VAULT", "KUBE")):
            monkeypatch.delenv(name)


def blocks(text: str) -> Blocks:
    """Capabilities by path; every line that is no comment is read, and no path stands twice."""
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    form = r'path "((?:[^"\\]|\\")+)" \{\n  capabilities +=( \[[^]\n]+\])\n(  subscribe_event_types = \["\*"\]\n)?\}\n?'
    assert re.sub(form, "", plain).strip() == ""
    found = re.findall(form, plain)
    made = {path.replace('\\"', '"'): set(re.findall(r'"(\w+)"', listed)) for path, listed, _ in found}
    assert len(made) == len(found)
    assert all(("subscribe" in listed) == bool(types) for _, listed, types in found)
    return made


def made(
    globs: Sequence[str], mounts: Sequence[Mount] = DEFAULT_MOUNTS, own: str = "", *, seeds: bool = True
) -> Blocks:
    """What the policy has of the mounts: without what it always has."""
    found = blocks(policy(SeedPaths.parse(globs, own), mounts, seeds=seeds))
    assert found.items() >= ALWAYS.items()
    return {path: listed for path, listed in found.items() if path not in ALWAYS}


def kv2(root: str, *narrow: str, whole: bool = False) -> Blocks:
    """What a KV v2 mount has, where it may seed at these paths within it."""
    wide: set[str] = {"patch"} if whole else set()
    return {
        f"{root}data/*": (WRITES if whole else set()) | {"subscribe"},
        f"{root}subkeys/*": {"read"},
        f"{root}metadata/*": {"list", "subscribe"} | wide,
        **{f"{root}data/{path}": WRITES | {"subscribe"} for path in narrow},
        **{f"{root}metadata/{path}": {"list", "subscribe", "patch"} for path in narrow},
    }


def kv1(root: str, *narrow: str, whole: bool = False) -> Blocks:
    return {
        f"{root}*": {"list", "subscribe"} | ({"create"} if whole else set()),
        **{f"{root}{path}": {"list", "subscribe", "create"} for path in narrow},
    }


@pytest.mark.parametrize(
    ("globs", "narrow"),
    [
        # it begins with no name: the whole mount
        (DEFAULT, None),
        (["**"], None),
        (["*/**"], None),
        (["secret/**"], None),
        (["secret/{namespace}/**"], None),
        (["secret/{namespace}"], None),
        (["secret/{label:team}/x/{namespace}"], None),
        (["secret/{namespace}-x/**"], None),
        (["secret/app-*/**"], None),
        (["secret/*x"], None),
        (["*/**/x"], None),
        (["**/x"], None),
        (["**/secret/apps/x"], None),
        (["secret/+/x"], None),
        (["secret/+x/x"], None),
        # names
        (["secret/apps/{namespace}/vaultsync/**"], ["apps/+/vaultsync/*"]),
        (["secret/apps/{namespace}/**"], ["apps/+/*"]),
        (["secret/apps/{namespace}"], ["apps/+"]),
        (["secret/apps/**"], ["apps/*"]),
        (["secret/apps/**/db"], ["apps/*"]),
        (["secret/apps/*/**/{namespace}/db"], ["apps/+/*"]),
        (["secret/apps/x"], ["apps/x"]),
        (["s*t/apps/x"], ["apps/x"]),
        (["{namespace}/apps/x"], ["apps/x"]),
        (["*/apps/x", "secret/apps/x"], ["apps/x"]),
        # parts of segments
        (["secret/apps/db-*"], ["apps/db-*"]),
        (["secret/db-*"], ["db-*"]),
        (["secret/apps/db-{namespace}"], ["apps/db-*"]),
        (["secret/apps/db-*/x"], ["apps/+/x"]),
        (["secret/apps/db-*/**"], ["apps/+/*"]),
        (["secret/apps/{namespace}-db"], ["apps/+"]),
        (["secret/apps/a-*-b"], ["apps/+"]),
        (["secret/apps/a-*-{namespace}"], ["apps/+"]),
        # + is Vault's own wildcard, and +* is forbidden
        (["secret/apps/+/x"], ["apps/+/x"]),
        (["secret/apps/+x"], ["apps/+"]),
        (["secret/apps/x+*"], ["apps/+"]),
        (["secret/apps/x+/y"], ["apps/x+/y"]),
        (['secret/apps/"x" y'], ['apps/"x" y']),
        # what another one covers is left out
        (["secret/apps/**", "secret/apps/{namespace}/**", "secret/apps/x", "secret/apps/db-*"], ["apps/*"]),
        (["secret/a/{namespace}/x", "secret/a/b/x", "secret/a/b/c/x"], ["a/+/x", "a/b/c/x"]),
        (["secret/a/d*", "secret/a/db-*", "secret/a/db", "secret/a/e"], ["a/d*", "a/e"]),
        (["secret/a/d*", "secret/a/{namespace}"], ["a/d*", "a/+"]),
        (["secret/a/*/**", "secret/a/*", "secret/a/b"], ["a/+/*", "a/+"]),
        (["secret/apps/x", "*/{namespace}"], None),
    ],
)
def test_globs(globs: Sequence[str], narrow: list[str] | None) -> None:
    inside = narrow or []
    whole = narrow is None
    assert made(globs, [SECRET]) == kv2("secret/", *inside, whole=whole) | PASSWORDS
    as_old = [glob.replace("secret/", "kv1/", 1).replace("s*t", "k*1") for glob in globs]
    assert made(as_old, [OLD]) == kv1("kv1/", *inside, whole=whole) | PASSWORDS


@pytest.mark.parametrize(
    ("globs", "found"),
    [
        (DEFAULT, kv2("secret/", whole=True) | kv2("team/kv/", whole=True) | kv1("kv1/", whole=True)),
        (["team/kv/apps/**"], kv2("secret/") | kv2("team/kv/", "apps/*") | kv1("kv1/")),
        (["team/**"], kv2("secret/") | kv2("team/kv/", whole=True) | kv1("kv1/")),
        (["team/*/a/b"], kv2("secret/") | kv2("team/kv/", "a/b") | kv1("kv1/")),
        (["**/kv/a"], kv2("secret/", whole=True) | kv2("team/kv/", whole=True) | kv1("kv1/", whole=True)),
        (["kv*/a/b"], kv2("secret/") | kv2("team/kv/") | kv1("kv1/", "a/b")),
    ],
)
def test_a_glob_is_for_the_mounts_that_its_beginning_can_stand_for(globs: Sequence[str], found: Blocks) -> None:
    assert made(globs, [SECRET, TEAM, OLD]) == found | PASSWORDS


@pytest.mark.parametrize("seeds", [True, False])
@pytest.mark.parametrize("globs", [DEFAULT, ["*/apps/{namespace}/**", "kv1/x"], ["a:*/**"]])
def test_without_the_stream_the_same_is_granted_but_for_subscribing(globs: Sequence[str], seeds: bool) -> None:
    paths, mounts = SeedPaths.parse(globs), [SECRET, TEAM, OLD]
    whole = blocks(policy(paths, mounts, seeds=seeds))
    text = policy(paths, mounts, seeds=seeds, streams=False)
    less = {path: listed - {"subscribe"} for path, listed in whole.items() if path != STREAM}
    assert blocks(text) == {path: listed for path, listed in less.items() if listed}
    assert "subscribe" not in text
    assert "VAULTSYNC_SOURCE=audit or poll" in text.partition("\n\n")[0]


def test_without_seeding_nothing_is_written() -> None:
    assert made(["prod/x/**", "b:*/**"], [SECRET, OLD], "a", seeds=False) == kv2("secret/") | kv1("kv1/")


@pytest.mark.parametrize(
    ("own", "globs", "found"),
    [
        ("", ["root:*/**"], kv2("secret/", whole=True) | PASSWORDS),
        ("team-a", ["*/**", "/team-a:*/x"], kv2("secret/", whole=True) | PASSWORDS),
        (
            "",
            ["*/apps/**", "team-a:*/{namespace}/**"],
            kv2("secret/", "apps/*")
            | kv2("team-a/secret/", whole=True)
            | PASSWORDS
            | {f"team-a/{path}": listed for path, listed in PASSWORDS.items()},
        ),
        (
            "team-a",
            ["team-a/b:secret/apps/x"],
            kv2("secret/") | kv2("b/secret/", "apps/x") | {f"b/{path}": listed for path, listed in PASSWORDS.items()},
        ),
    ],
)
def test_other_vault_namespaces_are_named_from_the_own_one_down(own: str, globs: Sequence[str], found: Blocks) -> None:
    assert made(globs, [SECRET], own) == found


@pytest.mark.parametrize(
    ("own", "globs", "words"),
    [
        (
            "",
            ["*/x", "prod/{namespace}/**"],
            "VAULTSYNC_SEED_PATHS: prod/{namespace}/** is for none of the mounts secret,",
        ),
        ("", ["secret/x", "team/x"], "team/x is for none of the mounts secret, team/kv; name its mount with --mount"),
        ("", ["team-a:prod/x"], "team-a:prod/x is for none of the mounts"),
        ("team-a", ["root:*/x"], "root:*/x is for a Vault namespace outside VAULT_NAMESPACE team-a"),
        ("team-a", ["team-ab:*/x"], "team-ab:*/x is for a Vault namespace outside VAULT_NAMESPACE team-a"),
        ("", ["a+b:*/x"], "a+b:*/x is for a Vault namespace with +"),
    ],
)
def test_a_glob_that_the_policy_could_not_grant_is_an_error(own: str, globs: Sequence[str], words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
        made(globs, [SECRET, TEAM], own)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("given", "mounts"),
    [
        ([], [SECRET]),
        (["secret/"], [SECRET]),
        (["kv1=v1", "/team/kv", "secret=v2", "secret"], [OLD, TEAM, SECRET]),
    ],
)
def test_mounts(given: list[str], mounts: list[Mount]) -> None:
    assert parse_mounts(given) == tuple(mounts)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["kv=v3"], "--mount 'kv=v3' has no version v1 or v2"),
        (["kv="], "has no version"),
        (["=v1"], "is empty"),
        (["/"], "is empty"),
        (["a/../sys"], "holds a '.' or '..'"),
        (["a*"], "holds *"),
        (["+"], "holds +"),
        (["team-a:secret"], "holds :"),
        (["s\u0435cret"], "which is not ASCII"),
        (['a\n} path "*" {'], "control character"),
        (["sys"], "--mount 'sys' is Vault's own"),
        (["auth/token=v1"], "is Vault's own"),
        (["kv", "kv=v1"], "--mount kv is given as v1 and as v2"),
        (["team/kv", "secret", "team"], "--mount team/kv is within --mount team"),
    ],
)
def test_a_wrong_mount_is_one_line_and_exit_2(given: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", *(word for mount in given for word in ("--mount", mount))]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert words in printed.err


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["policy", *arguments]) == 0
    found = capsys.readouterr()
    assert found.err == ""
    return found.out


def test_the_shipped_policy_is_what_the_command_in_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = SHIPPED.read_text()
    assert printed(capsys, *SHIPPED_MOUNTS) == shipped
    assert shipped.splitlines()[0].endswith(f"vaultsync policy {' '.join(SHIPPED_MOUNTS)}")


def test_the_command_goes_by_the_settings_and_needs_no_vault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = kv2("secret/", whole=True)
    assert blocks(printed(capsys)) == ALWAYS | whole | PASSWORDS
    monkeypatch.setenv("VAULT_ADDR", "no address")
    monkeypatch.setenv("VAULTSYNC_SEED_PATHS", "*/a/b,team-a/b:*/{namespace}/**")
    monkeypatch.setenv("VAULT_NAMESPACE", "team-a")
    deeper = {f"b/{path}": listed for path, listed in (whole | PASSWORDS).items()}
    assert blocks(printed(capsys)) == ALWAYS | kv2("secret/", "a/b") | PASSWORDS | deeper
    for name, value in {"VAULTSYNC_SEED": "off", "VAULTSYNC_DRY_RUN": "true"}.items():
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            found = printed(capsys)
        assert blocks(found) == ALWAYS | kv2("secret/") | kv2("b/secret/")
        assert "nothing is written" in found


@pytest.mark.parametrize(("source", "streams"), [("auto", True), ("events", True), ("audit", False), ("poll", False)])
def test_the_command_goes_by_the_source_and_needs_no_audit_device(
    source: str, streams: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAULTSYNC_SOURCE", source)
    found = printed(capsys)
    assert (STREAM in blocks(found)) == ("subscribe" in found) == streams


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("VAULTSYNC_SEED", "no", "VAULTSYNC_SEED "),
        ("VAULTSYNC_SEED_PATHS", "secret", "names a mount alone"),
        ("VAULTSYNC_SEED_PATHS", "prod/x", "is for none of the mounts secret"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_2(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["policy"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert words in said.err


def test_each_comment_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    comments = re.findall("^#.*", printed(capsys, *SHIPPED_MOUNTS), re.MULTILINE)
    assert len(comments) == len(set(comments)) > 10


# -- against Vault's priorities


def matches(path: str, asked: str) -> bool:
    """Whether a policy's path matches what is asked for."""
    text = "/".join("[^/]*" if segment == "+" else re.escape(segment) for segment in path.removesuffix("*").split("/"))
    return re.fullmatch(text + (".*" if path.endswith("*") else ""), asked) is not None


def priority(path: str) -> tuple[bool, int, bool, int, int, str]:
    """https://developer.hashicorp.com/vault/docs/concepts/policies#priority-matching; the highest counts."""
    plain, segments = path.removesuffix("*"), path.split("/")
    is_open, pluses = path.endswith("*"), segments.count("+")
    first = path.find("+") if pluses else len(plain)
    return not is_open and not pluses, first, not is_open, -pluses, len(plain), plain


def rights(found: Blocks, asked: str) -> set[str]:
    """The capabilities on a path."""
    matching = [path for path in found if matches(path, asked)]
    return found[max(matching, key=priority)] if matching else set()


def test_the_evaluator_has_vaults_priorities() -> None:
    """Those of CheckAllowedFromNonExactPaths in Vault's vault/acl.go, whose own examples these are."""
    for lower, higher, asked in (
        ("foo/+", "foo/a*", "foo/ab"),
        ("foo/+/bar/baz", "foo/bar/+/baz", "foo/bar/bar/baz"),
        ("foo/+/ba*", "foo/+/bar", "foo/x/bar"),
        ("foo/*", "foo/+", "foo/x"),
        ("foo/+/+/baz", "foo/+/bar/baz", "foo/x/bar/baz"),
        ("foo/+/bar/b*", "foo/+/bar/ba*", "foo/x/bar/baz"),
        ("foo/+/*", "foo/*", "foo/x/y"),
        ("foo/*", "foo/x", "foo/x"),
    ):
        assert rights({lower: {"list"}, higher: {"read"}}, asked) == {"read"}
        assert rights({higher: {"read"}, lower: {"list"}}, asked) == {"read"}
    assert rights({"foo/+": {"read"}}, "foo/x/y") == set()


names = st.sampled_from(["a", "b", "ab", "apps", "+", "+a", "a+"])
wild = names | st.sampled_from(
    ["*", "**", "a*", "b*", "*b", "a*b", "a+*", "{namespace}", "a-{namespace}", "{namespace}-b"]
)
beginnings = st.sampled_from(["*", "secret", "team/kv", "kv1", "**", "k*", "{namespace}", "team"])
globs = st.builds(lambda first, rest: "/".join([first, *rest]), beginnings, st.lists(wild, min_size=1, max_size=4))
inner = st.lists(names | st.sampled_from(["a-ab", "ab-b", "axb"]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=500)
@given(st.lists(globs, min_size=1, max_size=4), inner)
@example(["secret/a/{namespace}/*", "secret/a/ab/b/a", "secret/a*"], "a/ab/b/a")
@example(["*/{namespace}/a/**"], "ab/a/b")
@example(["*/a/a+*", "*/a/b*"], "a/a+b")
def test_what_may_be_created_may_be_written_and_nothing_is_shadowed(given_globs: list[str], path: str) -> None:
    paths = SeedPaths.parse(given_globs)
    mounts = (SECRET, TEAM, OLD, Mount("ab/", 2))
    reached = [glob.text for glob in paths.globs if any(glob.inside(mount.path) for mount in mounts)]
    assume(reached)
    paths = SeedPaths.parse(reached)
    found = made(reached, mounts)
    for mount in mounts:
        data = f"{mount.path}{path}" if mount.kv == 1 else f"{mount.path}data/{path}"
        may = not paths.refusal(VaultPath("", data), mount, Namespace("ab"))
        granted = rights(found, data)
        assert "read" not in granted
        if mount.kv == 1:
            assert granted >= {"list", "subscribe"} | ({"create"} if may else set())
            assert "update" not in granted
            continue
        metadata = rights(found, f"{mount.path}metadata/{path}")
        assert granted >= {"subscribe"} | (WRITES if may else set())
        assert metadata >= {"list", "subscribe"} | ({"patch"} if may else set())
        assert rights(found, f"{mount.path}subkeys/{path}") == {"read"}
