"""core/seed_paths: which path may be created for which namespace, and that no spelling of a key gets around it."""

import time
from collections.abc import Sequence
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.build import external_secret, store
from vaultsync.controller.entry import api_path, resolve_reference
from vaultsync.core.external_secret import Namespace, RemoteRef, Store
from vaultsync.core.paths import Mount, VaultPath, clean, logical
from vaultsync.core.seed_paths import DEFAULT, SeedPaths

SECRET, TEAM, OLD = Mount("secret/", 2), Mount("team/kv/", 2), Mount("kv1/", 1)
MOUNTS = (SECRET, TEAM, OLD)
TEAM_KEY = "example.com/team"


def ns(name: str = "dev-1", **labels: str) -> Namespace:
    return Namespace(name, labels)


def api(path: str) -> tuple[VaultPath, Mount]:
    """`secret/dev-1/a`, as people write it → the API path and its mount."""
    mount = next(mount for mount in MOUNTS if path.startswith(mount.path))
    inner = path.removeprefix(mount.path)
    return VaultPath("", f"{mount.path}data/{inner}" if mount.kv == 2 else path), mount


def allowed(globs: Sequence[str], path: str, namespace: Namespace | None = None) -> bool:
    where, mount = api(path)
    return SeedPaths.parse(globs).refusal(where, mount, namespace or ns()) == ""


@pytest.mark.parametrize(
    ("path", "namespace", "may"),
    [
        ("secret/dev-1/a", "dev-1", True),
        ("secret/dev-1/a/b/c", "dev-1", True),
        ("secret/dev-1", "dev-1", True),
        ("team/kv/dev-1/a", "dev-1", True),
        ("team/kv/dev-1", "dev-1", True),
        ("kv1/dev-1/a", "dev-1", True),
        ("secret/dev-2/a", "dev-1", False),
        ("secret/dev-10/a", "dev-1", False),
        ("secret/Dev-1/a", "dev-1", False),
        ("secret/x/dev-1/a", "dev-1", False),
        ("secret/a", "dev-1", False),
        # KV v1 has no `data/`: it is a folder there
        ("kv1/data/dev-1/a", "dev-1", False),
        ("secret/data/dev-1/a", "dev-1", False),
        # a namespace named like a part of a mount's path, or like Vault's own folders
        ("team/kv/dev-1/a", "kv", False),
        ("team/kv/a", "kv", False),
        ("team/kv/kv/a", "kv", True),
        ("secret/dev-1/a", "data", False),
        ("secret/data/a", "data", True),
        ("secret/dev-1/a", "secret", False),
    ],
)
def test_by_default_a_namespace_owns_its_folder_in_every_mount(path: str, namespace: str, may: bool) -> None:
    assert allowed(DEFAULT, path, ns(namespace)) is may


@pytest.mark.parametrize(
    ("glob", "path", "may"),
    [
        ("secret/{namespace}/**", "secret/dev-1/a", True),
        ("secret/{namespace}/**", "kv1/dev-1/a", False),
        ("secret/{namespace}/**", "secret/dev-1", False),
        ("team/kv/{namespace}/*", "team/kv/dev-1/a", True),
        ("team/kv/{namespace}/*", "team/kv/dev-1/a/b", False),
        ("*/{namespace}/*/db", "secret/dev-1/x/db", True),
        ("*/{namespace}/*/db", "secret/dev-1/db", False),
        ("*/{namespace}/**/db", "secret/dev-1/db", True),
        ("*/{namespace}/**/db", "secret/dev-1/x/y/db", True),
        ("*/{namespace}/**/db", "secret/dev-1/x/y/dbs", False),
        ("*/**/{namespace}/**/x/**", "secret/a/b/dev-1/x/z", True),
        ("*/**/{namespace}/**/x/**", "secret/a/b/dev-1/x", False),
        ("*/**", "secret/a", True),
        ("**", "team/kv/a/b", True),
        ("**/db", "team/kv/a/db", True),
        ("*/app-*/**", "secret/app-x/a", True),
        ("*/app-*/**", "secret/app-/a", True),
        ("*/app-*/**", "secret/app/a", False),
        ("*/{namespace}-*", "secret/dev-1-x", True),
        ("*/{namespace}-*", "secret/dev-1", False),
        ("*/*a*b*", "secret/xaxbx", True),
        ("*/*a*b*", "secret/ba", False),
        ("*/a*a", "secret/a", False),
        ("*/a*a", "secret/aa", True),
        ("*/ab*ba", "secret/aba", False),
        ("k*/{namespace}/*", "kv1/dev-1/a", True),
        ("*/a.c", "secret/abc", False),
        ("*/A", "secret/a", False),
        ("*/a b/+", "secret/a b/+", True),
        # a leading * is the mount as a whole
        ("*/kv/x", "team/kv/x", False),
        ("*/x", "team/kv/x", True),
        ("*/*", "team/kv/x/y", False),
        ("root:*/x", "secret/x", True),
    ],
)
def test_globs(glob: str, path: str, may: bool) -> None:
    assert allowed([glob], path) is may


def test_any_of_the_globs_is_enough() -> None:
    assert allowed(["*/a", "*/b"], "secret/b")


@pytest.mark.parametrize(
    ("value", "path", "may"),
    [
        ("red", "secret/red/a", True),
        ("red", "secret/blue/a", False),
        ("Red", "secret/red/a", False),
        ("", "secret/x/a", False),
        ("*", "secret/x/a", False),
        ("**", "secret/x/a", False),
        ("r*", "secret/red/a", False),
        ("a/b", "secret/a/b/c", False),
        ("..", "secret/x/a", False),
        ("{namespace}", "secret/dev-1/a", False),
        (".*", "secret/x/a", False),
        ("r.d", "secret/red/a", False),
    ],
)
def test_a_labels_value_is_text(value: str, path: str, may: bool) -> None:
    labels = {TEAM_KEY: value}
    assert allowed(["*/{label:example.com/team}/**"], path, Namespace("dev-1", labels)) is may


def test_a_namespace_without_the_label_matches_nothing() -> None:
    assert not allowed(["*/{label:team}/**"], "secret/red/a", ns(other="red"))
    assert not allowed(["*/x{label:team}/**"], "secret/x/a", ns())
    assert allowed(["*/{label:team}-{namespace}/**"], "secret/red-dev-1/a", ns(team="red"))


@pytest.mark.parametrize(
    ("own", "vault_namespace", "glob", "may"),
    [
        ("", "", "*/{namespace}/**", True),
        ("", "team-a", "*/{namespace}/**", False),
        ("", "team-a", "team-a:*/{namespace}/**", True),
        ("", "team-a/x", "team-a:*/{namespace}/**", False),
        ("", "team-a/x", "team-a/x:*/{namespace}/**", True),
        ("", "team-a ", "team-a:*/{namespace}/**", False),
        ("", "TEAM-A", "team-a:*/{namespace}/**", False),
        ("", "", "team-a:*/{namespace}/**", False),
        ("team-a", "team-a", "*/{namespace}/**", True),
        ("/team-a/", "team-a", "*/{namespace}/**", True),
        ("team-a", "team-a", "team-a/:*/{namespace}/**", True),
        ("team-a", "", "*/{namespace}/**", False),
        ("team-a", "", "root:*/{namespace}/**", True),
    ],
)
def test_a_glob_is_for_one_vault_namespace(own: str, vault_namespace: str, glob: str, may: bool) -> None:
    paths = SeedPaths.parse([glob], own)
    assert (paths.refusal(VaultPath(vault_namespace, "secret/data/dev-1/a"), SECRET, ns()) == "") is may


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        # a Vault namespace in the path: Vault names the mount from the root down
        ("team-a/secret/data/dev-1/a", Mount("admin/team-a/secret/", 2)),
        ("dev-1/secret/data/x", SECRET),
        # not a data path
        ("secret/metadata/dev-1/a", SECRET),
        ("secret/dev-1/a", SECRET),
        ("secret/data", SECRET),
        ("kv1", OLD),
        ("kv1/", OLD),
        # not as secret_path builds it
        ("secret/data/dev-1/../dev-2/a", SECRET),
        ("secret/data/dev-1//a", SECRET),
        ("/secret/data/dev-1/a", SECRET),
        ("secret/data/dev-1/a", Mount("/", 2)),
    ],
)
def test_what_is_not_plainly_a_secret_of_the_mount_is_refused(path: str, mount: Mount) -> None:
    for name in ("dev-1", "metadata", "secret", "data"):
        refusal = SeedPaths.parse(["**"]).refusal(VaultPath("", path), mount, ns(name))
        assert f" may not be created: it is no secret's path in the KV v{mount.kv} mount {mount.path}, " in refusal


def refusal(globs: Sequence[str], path: str, namespace: Namespace) -> str:
    where, mount = api(path)
    return SeedPaths.parse(globs).refusal(where, mount, namespace)


def test_a_refusal_names_what_would_be_allowed() -> None:
    assert refusal(DEFAULT, "secret/dev-2/x", ns()) == (
        "secret/dev-2/x may not be created for namespace dev-1: "
        "VAULTSYNC_SEED_PATHS allows it to create */dev-1/** and */dev-1"
    )
    assert refusal(["*/{label:team}/**", "*/{namespace}/**"], "secret/dev-2/x", ns()) == (
        "secret/dev-2/x may not be created for namespace dev-1: VAULTSYNC_SEED_PATHS allows it to create "
        "*/dev-1/**; */{label:team}/** stands for nothing, as the namespace has no label team"
    )
    assert refusal(["*/{label:team}/**"], "secret/dev-2/x", ns(team="")) == (
        "secret/dev-2/x may not be created for namespace dev-1: VAULTSYNC_SEED_PATHS allows it to create "
        "nothing; */{label:team}/** stands for nothing, as the namespace's label team is empty"
    )
    assert "can't be part of a path" in refusal(["*/{label:team}/**"], "secret/dev-2/x", ns(team="a/b"))


def test_a_refusal_tells_vault_namespaces_apart() -> None:
    paths = SeedPaths.parse(["*/{namespace}/**", "b:*/{namespace}/**"])
    assert paths.refusal(VaultPath("a", "secret/data/dev-1/x"), SECRET, ns()) == (
        "a:secret/dev-1/x may not be created for namespace dev-1: VAULTSYNC_SEED_PATHS allows it to create "
        "*/dev-1/** and b:*/dev-1/** (a glob without a colon is for vaultsync's own Vault namespace)"
    )
    root = SeedPaths.parse(DEFAULT, "a").refusal(VaultPath("", "secret/data/dev-1/x"), SECRET, ns())
    assert root.startswith("root:secret/dev-1/x may not")


@pytest.mark.parametrize(
    ("globs", "words"),
    [
        ([], "at least one glob"),
        ([""], "glob 1, segment 1 is empty"),
        (["*/a", "*//b"], "glob 2, segment 2 is empty"),
        (["/*/a"], "segment 1 is empty"),
        (["*/a/"], "segment 3 is empty"),
        (["*/../a"], "segment 2 holds a '.' or '..'"),
        (["*/./a"], "segment 2 holds a '.' or '..'"),
        (["*/{namespace"], "segment 2 holds {"),
        (["*/namespace}"], "segment 2 holds }"),
        (["*/{{namespace}}"], "segment 2 holds {"),
        (["*/{}"], "segment 2 holds an unknown placeholder"),
        (["*/{Namespace}"], "unknown placeholder; there are {namespace} and {label:KEY}"),
        (["*/{ namespace }"], "unknown placeholder"),
        (["*/a/{annotation:x}"], "segment 3 holds an unknown placeholder"),
        (["*/{label:}"], "without a label's key"),
        (["*/{label}"], "without a label's key"),
        (["*/{label:a/b/c}"], "without a label's key"),
        (["*/{label:a b}"], "without a label's key"),
        (["*/{label:*}"], "without a label's key"),
        (["*/a**"], "segment 2 holds ** glued"),
        (["*/**a"], "glued"),
        (["*/***"], "glued"),
        (["*/{namespace}**"], "glued"),
        (["*/app-?"], "segment 2 holds ?"),
        (["*/[ab]"], "holds ["),
        (["*/a\\b"], "holds \\"),
        (["*/a%2fb"], "holds %"),
        (["*/é"], "which is not ASCII"),
        (["*/ a"], "white space"),
        (["*"], "names a mount alone"),
        (["secret"], "names a mount alone"),
        (["{namespace}"], "names a mount alone"),
        ([":*/a"], "Vault namespace is empty"),
        (["*:*/a"], "Vault namespace holds *"),
        (["{namespace}:*/a"], "Vault namespace holds {"),
        (["a:"], "segment 1 is empty"),
    ],
)
def test_a_wrong_glob_says_what_is_wrong_where_and_what_is_right(globs: list[str], words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
        SeedPaths.parse(globs)
    assert words in str(caught.value)
    assert ";" in str(caught.value)


def test_no_glob_makes_matching_slow() -> None:
    segment = "*/" + "a*" * 2000 + "b"
    deep = "*/" + "**/a/" * 200 + "b"
    started = time.process_time()
    assert not allowed([segment], "secret/" + "a" * 3000)
    assert not allowed([deep], "secret/" + "a/" * 1500 + "c")
    assert time.process_time() - started < 5


# -- against plain descriptions of what globs mean


def slow(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    """What a glob means, spelled out."""
    if not pattern:
        return not segments
    if pattern[0] == "**":
        least = 1 if len(pattern) == 1 else 0
        return any(slow(pattern[1:], segments[taken:]) for taken in range(least, len(segments) + 1))
    return bool(segments) and slow_segment(pattern[0], segments[0]) and slow(pattern[1:], segments[1:])


def slow_segment(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(slow_segment(pattern[1:], text[taken:]) for taken in range(len(text) + 1))
    return text[:1] == pattern[0] and slow_segment(pattern[1:], text[1:])


wild = st.sampled_from(["*", "**", "a", "b", "a*", "*b", "a*b", "*a*", "ab*ba", "{namespace}"])
plain = st.text("ab", min_size=1, max_size=4)


@settings(max_examples=300)
@given(st.lists(wild, min_size=2, max_size=5), st.lists(plain, min_size=1, max_size=5))
def test_a_glob_means_what_its_segments_say(pattern: list[str], inner: list[str]) -> None:
    path = "/".join(["secret", *inner])
    meant = ["ab" if segment == "{namespace}" else segment for segment in pattern]
    wanted = slow(meant[1:], inner) if meant[0] == "*" else slow(meant, ["secret", *inner])
    assert allowed(["/".join(pattern)], path, ns("ab")) is wanted


# -- no spelling escapes


def served(requested: str) -> str:
    """The path that a server makes of what is sent, even one that decodes twice."""
    return clean(unquote(clean(unquote(quote(requested, safe="/")))))


def is_under(path: str, mount: Mount, name: str) -> bool:
    home = f"{mount.path}data/{name}" if mount.kv == 2 else mount.path + name
    return path == home or path.startswith(home + "/")


PIECES = ["/", "/", "/", "", "//", ".", "..", "../", "%2e%2e", "%2f", "%", "*", "+", " ", "\\", "é", "а", "{namespace}"]
NAMES = ["data", "metadata", "secret", "secret/", "secret/data/", "team", "kv", "team/kv/", "kv1", "dev-2", "a"]
pieces = st.sampled_from([*PIECES, *NAMES, "dev-1", "dev-1/"])
spelled = st.lists(pieces, max_size=8).map("".join)
slashed = st.lists(pieces, max_size=6).map("/".join)


@st.composite
def nearly_plain(draw: st.DrawFn) -> str:
    """A key as people write it, with at most two odd pieces put in anywhere: many are allowed, or all but."""
    start = draw(st.sampled_from(["", "", "secret/", "secret/data/", "team/kv/", "team/kv/data/", "kv1/", "data/"]))
    key = start + "/".join(
        draw(st.lists(st.sampled_from(["dev-1", "dev-1", "dev-2", "kv", "a"]), min_size=1, max_size=4))
    )
    for piece in draw(st.lists(pieces, max_size=2)):
        at = draw(st.integers(0, len(key)))
        key = key[:at] + piece + key[at:]
    return key


keys = nearly_plain() | nearly_plain() | nearly_plain() | nearly_plain() | spelled | slashed | st.text(max_size=20)
plain_stores = st.sampled_from(["secret", "team/kv", "kv1", None])
odd_stores = st.sampled_from(["secret/data", "team", "secret/", "", "kv1/dev-1", "secret/dev-1", "secret/.."])
stores = plain_stores | plain_stores | plain_stores | odd_stores | spelled


def resolved(key: str, store_: Store) -> tuple[VaultPath, str]:
    (ref,) = external_secret(key).refs
    assert isinstance(ref, RemoteRef)
    path = api_path(store_, ref)
    assert path is not None
    found = resolve_reference(store_, ref, path)
    return found.path, found.refusal


@settings(max_examples=1000)
@given(keys, stores, st.sampled_from(["v1", "v2"]), st.sampled_from(["dev-1", "dev-1", "kv", "data"]))
@example("secret/data/dev-1/a", "secret", "v2", "dev-1")
@example("dev-1/../dev-2/a", "secret", "v2", "dev-1")
@example("dev-1/%2e%2e/dev-2/a", "secret", "v2", "dev-1")
@example("dev-1/a", "secret/data", "v1", "dev-1")
@example("data/kv/a", "team", "v1", "kv")
def test_no_key_spelling_escapes_the_globs(key: str, store_path: str | None, version: str, name: str) -> None:
    path, unsafe = resolved(key, store(path=store_path, version=version))
    mount = next((mount for mount in MOUNTS if path.path.startswith(mount.path)), None)
    if mount and not unsafe and not SeedPaths.parse(DEFAULT).refusal(path, mount, ns(name)):
        assert is_under(served(path.path), mount, name)
        assert served(path.path) == path.path
        assert logical(mount, path.path).startswith(mount.path + name)


@pytest.mark.parametrize("key", ["dev-1/a", "secret/dev-1/a", "secret/data/dev-1/a", "/dev-1/a", "dev-1/a/", "dev-1"])
def test_every_plain_spelling_is_allowed(key: str) -> None:
    path, unsafe = resolved(key, store())
    assert unsafe == ""
    assert SeedPaths.parse(DEFAULT).refusal(path, SECRET, ns()) == ""


@pytest.mark.parametrize(
    ("store_path", "version", "key", "words"),
    [
        ("secret", "v2", "dev-1/%2e%2e/x", "the key holds %"),
        ("secret/../team", "v2", "x", "spec.provider.vault.path of SecretStore dev-1/vault holds a '.' or '..'"),
        ("secret//x", "v2", "x", "spec.provider.vault.path of SecretStore dev-1/vault holds an empty segment"),
        ("s\u0435cret", "v2", "x", "spec.provider.vault.path of SecretStore dev-1/vault holds 'е' (U+0435)"),
    ],
)
def test_key_and_store_are_both_checked_and_named(store_path: str, version: str, key: str, words: str) -> None:
    assert words in resolved(key, store(path=store_path, version=version))[1]


@pytest.mark.parametrize("store_path", ["", "secret/", "/secret", None])
def test_a_stores_path_may_have_outer_slashes_or_be_empty(store_path: str | None) -> None:
    assert resolved("secret/x", store(path=store_path))[1] == ""
