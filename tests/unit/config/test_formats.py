"""config/formats: valid and invalid label selectors and names."""

import pytest

from vaultsync.config.formats import is_label_selector, is_namespace


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "!a",
        "! a",
        "a=b",
        "a==b",
        "a!=b",
        "a = b , c != d",
        "a=",
        "a!=",
        "vaultsync=on,env!=prod",
        "env in (dev)",
        "env in (dev, test),!x",
        "env notin(dev,test)",
        "env in (,a)",
        "example.com/some_Label.x=On-1",
        "in in (in)",
        " a ",
        "x" * 63 + "=" + "y" * 63,
        ("a" * 62 + ".") * 4 + "b/c",
    ],
)
def test_what_is_a_label_selector(text: str) -> None:
    assert is_label_selector(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ",",
        "a,",
        ",a",
        "a,,b",
        "a b",
        "a=b c",
        "a===b",
        "a=!b",
        "!a=b",
        "=b",
        "!",
        "a>1",
        "a in",
        "a in b",
        "a in (b",
        "a in b)",
        "ain(b)",
        "a of (b)",
        "a in ((b))",
        "-a=b",
        "a=b-",
        "a=b/c",
        "a=ü",
        "/a",
        "a/",
        "a/b/c",
        "A.b/c",
        "a..b/c",
        "a=b\n\x00",
        "a&watch=true",
        "x" * 64,
        "a=" + "y" * 64,
        ("a" * 62 + ".") * 4 + "bb/c",
        "a" * 100_000 + "!",
    ],
)
def test_what_is_no_label_selector(text: str) -> None:
    assert not is_label_selector(text)


@pytest.mark.parametrize(
    ("name", "good"),
    [("a", True), ("team-1", True), ("9", True), ("x" * 63, True), ("x" * 64, False)]
    + [(name, False) for name in ("", "-a", "a-", "A", "a.b", "a/b", "a b", "*", "..", "a\n")],
)
def test_what_a_namespace_can_be_called(name: str, good: bool) -> None:
    assert is_namespace(name) is good
