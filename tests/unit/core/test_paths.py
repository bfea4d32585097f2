"""core/paths: every spelling of a key, as external-secrets 0.20.4 requests it."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultsync.core.paths import (
    FindPrefix,
    Mount,
    VaultPath,
    clean,
    clean_namespace,
    find_prefix,
    logical,
    secret_path,
    unsafe_reason,
    v2_path,
)


@pytest.mark.parametrize(
    ("store_path", "kv", "key", "requested"),
    [
        # the examples of external-secrets' own comment on buildPath
        ("secret/path", 2, "foo", "secret/path/data/foo"),
        ("secret/path", 1, "foo", "secret/path/foo"),
        ("secret/path", 2, "secret/path/foo", "secret/path/data/foo"),
        ("secret/path", 2, "secret/path/data/foo", "secret/path/data/foo"),
        ("secret/path", 1, "secret/path/foo", "secret/path/foo"),
        (None, 2, "secret/path/foo", "secret/data/path/foo"),
        (None, 2, "secret/path/data/foo", "secret/path/data/foo"),
        (None, 1, "secret/path/foo", "secret/path/foo"),
        # FACTS.md: three spellings of one path, and the trap
        ("secret", 2, "dev-1/a", "secret/data/dev-1/a"),
        ("secret", 2, "secret/dev-1/a", "secret/data/dev-1/a"),
        ("secret", 2, "secret/data/dev-1/a", "secret/data/dev-1/a"),
        ("secret", 2, "data/x", "secret/data/data/x"),
        ("secret", 2, "secret/data/data/x", "secret/data/data/x"),
        ("secret", 1, "secret/data/x", "secret/data/x"),
        ("secret", 1, "data/x", "secret/data/x"),
        ("team/kv", 2, "a/b", "team/kv/data/a/b"),
        ("team/kv", 2, "team/kv/a/b", "team/kv/data/a/b"),
        ("team/kv", 2, "team/a", "team/kv/data/team/a"),
        # only once is the store's path taken off
        ("secret", 2, "secret/secret/a", "secret/data/secret/a"),
        ("secret", 2, "secretive/a", "secret/data/secretive/a"),
        ("secret", 2, "secret", "secret/data/secret"),
        # without a store path
        (None, 2, "secret/a", "secret/data/a"),
        (None, 2, "secret", "secret/data"),
        (None, 2, "team/kv/a", "team/data/kv/a"),
        (None, 2, "team/kv/data/a", "team/kv/data/a"),
        (None, 2, "secret/mydata/a", "secret/data/mydata/a"),
        # an empty store path is one that is set
        ("", 2, "a", "data/a"),
        ("", 2, "/a", "data/a"),
        ("", 1, "kv1/a", "kv1/a"),
        # Go's path.Join cleans what is sent
        ("secret", 2, "/dev-1//a/", "secret/data/dev-1/a"),
        ("secret", 2, "dev-1/./a", "secret/data/dev-1/a"),
        ("secret", 2, "dev-1/../a", "secret/data/a"),
        ("secret/", 2, "secret/a", "secret/data/secret/a"),
        (None, 2, "/secret/a", "data/secret/a"),
        (None, 1, "//kv1//a", "kv1/a"),
        # characters that a URL would have to escape are part of the name here
        ("secret", 2, "a b/ü?#%2e", "secret/data/a b/ü?#%2e"),
    ],
)
def test_a_key_is_the_path_that_external_secrets_requests(
    store_path: str | None, kv: int, key: str, requested: str
) -> None:
    assert secret_path(store_path, kv, key) == requested


def build_path(store_path: str | None, kv: int, key: str) -> str:
    """external-secrets' buildPath, line by line."""
    out = key
    if store_path is not None:
        cut = store_path + "/"
        if out.startswith(cut):
            out = out.partition(cut)[2]
            if out.startswith("data/") and kv == 2:
                out = out.partition("data/")[2]
        mount = store_path.split("/")
        if kv == 2:
            mount.append("data")
        return "/".join([*mount, *out.split("/")])
    if "/data/" not in out and kv == 2:
        parts = out.split("/")
        return "/".join([parts[0], "data", *parts[1:]])
    return out


def go_clean(joined: str) -> str:
    """Go's path.Join("/", …) for a rooted path, by its own rules."""
    parts: list[str] = []
    for part in joined.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


segments = st.sampled_from(
    ["", ".", "..", "data", "metadata", "secret", "kv", "team", "a", "b", "secretdata", " ", "ü"]
)
spellings = st.lists(segments, max_size=7).map("/".join) | st.text(max_size=20)


@given(st.none() | spellings, st.sampled_from([1, 2]), spellings)
def test_any_key_is_built_as_external_secrets_builds_it(store_path: str | None, kv: int, key: str) -> None:
    assert secret_path(store_path, kv, key) == go_clean(build_path(store_path, kv, key))


@given(spellings)
def test_cleaning_is_idempotent_and_leaves_no_odd_segment(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert not cleaned.startswith("/")
    assert not cleaned.endswith("/")
    assert not {"..", "."} & set(cleaned.split("/"))
    assert cleaned == "" or "" not in cleaned.split("/")


@given(st.none() | spellings, st.sampled_from([1, 2]), spellings)
def test_no_key_leaves_the_tree_by_dots(store_path: str | None, kv: int, key: str) -> None:
    assert ".." not in secret_path(store_path, kv, key).split("/")


@pytest.mark.parametrize("kv", [1, 2])
@pytest.mark.parametrize("store_path", ["secret", "team/kv", "a/b/c"])
def test_every_spelling_of_a_key_is_one_path(kv: int, store_path: str) -> None:
    spelled = ["x/y", "/x/y", "x//y", f"{store_path}/x/y"] + ([f"{store_path}/data/x/y"] if kv == 2 else [])
    assert len({secret_path(store_path, kv, key) for key in spelled}) == 1


@pytest.mark.parametrize(
    ("store_path", "kv", "path", "prefix"),
    [
        ("secret", 2, None, "secret/data/"),
        ("secret", 2, "dev-1", "secret/data/dev-1/"),
        ("secret", 2, "dev-1/", "secret/data/dev-1/"),
        ("team/kv", 2, "a/b", "team/kv/data/a/b/"),
        ("kv1", 1, None, "kv1/"),
        ("kv1", 1, "x", "kv1/x/"),
        (None, 2, "secret/data/dev-1", "secret/data/dev-1/"),
        (None, 2, "secret/dev-1", None),
        (None, 2, None, None),
        (None, 1, "kv1/x", None),
        ("secret", 2, "", "secret/data/"),
    ],
)
def test_a_find_lists_the_folder_that_external_secrets_lists(
    store_path: str | None, kv: int, path: str | None, prefix: str | None
) -> None:
    assert find_prefix(store_path, kv, path) == prefix


@given(st.none() | spellings, st.sampled_from([1, 2]), st.none() | spellings)
def test_a_prefix_ends_with_one_slash(store_path: str | None, kv: int, path: str | None) -> None:
    prefix = find_prefix(store_path, kv, path)
    assert prefix is None or (prefix.endswith("/") and not prefix.endswith("//"))


def test_a_prefix_covers_what_is_in_its_folder_and_namespace_only() -> None:
    prefix = FindPrefix("team", "secret/data/dev-1/", 2)
    assert prefix.covers(VaultPath("team", "secret/data/dev-1/a"))
    assert prefix.covers(VaultPath("team", "secret/data/dev-1/a/b"))
    assert not prefix.covers(VaultPath("team", "secret/data/dev-10/a"))
    assert not prefix.covers(VaultPath("", "secret/data/dev-1/a"))


@pytest.mark.parametrize(
    ("api_path", "inner"),
    [
        ("team/kv/data/a/b", "a/b"),
        ("team/kv/data/data/b", "data/b"),
        ("team/kv/data/", None),
        ("team/kv/data", None),
        ("team/kv/metadata/a", None),
        ("secret/data/a", None),
    ],
)
def test_the_path_inside_a_v2_mount(api_path: str, inner: str | None) -> None:
    assert v2_path(Mount("team/kv/", 2), api_path) == inner


@pytest.mark.parametrize(
    ("mount", "api_path", "shown"),
    [
        (Mount("secret/", 2), "secret/data/a/b", "secret/a/b"),
        (Mount("secret/", 2), "secret/data/data/b", "secret/data/b"),
        (Mount("team/kv/", 2), "team/kv/data/a", "team/kv/a"),
        (Mount("secret/", 2), "secret/a", "secret/a"),
        (Mount("kv1/", 1), "kv1/data/a", "kv1/data/a"),
    ],
)
def test_people_see_the_path_without_the_apis_data(mount: Mount, api_path: str, shown: str) -> None:
    assert logical(mount, api_path) == shown


@pytest.mark.parametrize(
    ("spelled", "namespace"), [("", ""), ("root", ""), ("/root/", ""), ("team/", "team"), ("/a/b/", "a/b")]
)
def test_a_namespace_has_one_spelling(spelled: str, namespace: str) -> None:
    assert clean_namespace(spelled) == namespace


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("", "is empty"),
        ("/", "is empty"),
        ("a/../b", "'..'"),
        ("..", "'..'"),
        ("./a", "'.'"),
        ("a/.", "'.'"),
        ("a//b", "empty segment"),
        ("/a//b/", "empty segment"),
        ("a\nb", "control character"),
        ("a\x7f", "control character"),
        ("\x00", "control character"),
        ("%2e%2e/a", "holds %"),
        ("a%2fb", "holds %"),
        ("a*", "holds *"),
        ("a?b", "holds ?"),
        ("[a", "holds ["),
        ("a]", "holds ]"),
        ("{a", "holds {"),
        ("a}", "holds }"),
        ("a\\b", "holds \\"),
        ("dev-1/\u0430", "'а' (U+0430), which is not ASCII"),
        ("é", "'é' (U+00E9)"),
        ("a\u202eb", "'\\u202e' (U+202E)"),
        ("a\u2028b", "'\\u2028' (U+2028)"),
        ("a\xa0", "'\\xa0' (U+00A0)"),
        ("\ud800", "'\\ud800' (U+D800)"),
        ("🙂", "(U+1F642)"),
        (" a", "white space"),
        ("a ", "white space"),
        ("a /b", "white space"),
        ("a/ /b", "white space"),
        ("/ a", "white space"),
    ],
)
def test_nothing_is_written_for_a_dangerous_key(key: str, word: str) -> None:
    reason = unsafe_reason(key)
    assert reason.startswith("the key ")
    assert word in reason
    assert reason.isprintable()


@pytest.mark.parametrize(
    "key", ["a", "/a/", "//a", "a..b/c", "a b", "a/.b", "a+b/+/c", "a:b", "a#b", "a;b,c", "-", "..."]
)
def test_odd_but_harmless_keys_are_fine(key: str) -> None:
    assert unsafe_reason(key) == ""


def test_a_reason_names_what_is_wrong() -> None:
    assert unsafe_reason("a%", "the path").startswith("the path holds %")


@given(st.text())
def test_what_is_fine_is_plain_ascii_that_no_decoder_or_cleaner_changes(text: str) -> None:
    if unsafe_reason(text) == "":
        assert text.isascii()
        assert text.isprintable()
        assert clean(unquote(text)) == text.strip("/")


def test_a_path_is_shown_with_its_namespace() -> None:
    assert str(VaultPath("", "secret/data/a")) == "secret/data/a"
    assert str(VaultPath("team", "secret/data/a")) == "team/secret/data/a"
