"""runtime/logging: the format of log lines, and what they never contain."""

import io
import json
from collections.abc import Iterator

import pytest
from loguru import logger

from vaultsync.runtime import logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    logger.remove()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def logged(format: str, level: str = "INFO", stream: io.StringIO | None = None) -> io.StringIO:
    made = stream or io.StringIO()
    logging.configure(format, level, made)
    return made


def fail(value: str) -> None:
    hidden = value
    raise RuntimeError(f"failed with {len(hidden)} characters")


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_variables_value_never_appears_in_a_traceback(format: str) -> None:
    stream = logged(format, "DEBUG")
    hidden = "5ecret"[::1] + "-value"
    try:
        fail(hidden)
    except RuntimeError as error:
        logger.opt(exception=error).error("a pass failed unexpectedly", key="k")
    text = stream.getvalue()
    assert "RuntimeError: failed with 12 characters" in text
    assert "in fail" in text
    assert hidden not in text


ODD = ["{x}", "{}", "{0}", "<red>r</red>", "</>", "<", "\\<b>", "%s", "{extra[path]}", '"', "ü"]


@pytest.mark.parametrize("odd", ODD)
def test_fields_are_printed_unchanged(odd: str) -> None:
    stream = logged("text")
    logger.info("seeded", path=odd, other=[odd])
    assert f"path={odd}" in stream.getvalue()


@pytest.mark.parametrize("odd", ["a\nb", "a\r\nb", "\x1b[2Ka\r"])
def test_a_field_can_not_forge_a_line(odd: str) -> None:
    stream = logged("text")
    logger.info("seeded", path=odd)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().rstrip("\n").isprintable()


@pytest.mark.parametrize("odd", ODD)
def test_a_json_line_parses_and_holds_the_fields(odd: str) -> None:
    stream = logged("json")
    logger.info("seeded", path=odd, version=3, names=["a"], other={"a": None})
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found.keys() == {"time", "level", "message", "path", "version", "names", "other"}
    assert (found["level"], found["message"], found["path"]) == ("INFO", "seeded", odd)
    assert (found["version"], found["names"], found["other"]) == (3, ["a"], {"a": None})


def test_an_exception_is_a_field_of_its_json_line() -> None:
    stream = logged("json")
    try:
        fail("x")
    except RuntimeError:
        logger.exception("bad")
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found["message"] == "bad"
    assert "RuntimeError" in found["exception"]


def test_a_value_without_a_json_type_is_logged_as_text() -> None:
    stream = logged("json")
    logger.info("x", odd={1, 2}.__class__, number=float("inf"))
    assert stream.getvalue()


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    terminal = logged("auto", stream=Terminal())
    logger.info("hello")
    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    pipe = logged("auto")
    logger.info("hello")
    assert json.loads(pipe.getvalue())["message"] == "hello"


@pytest.mark.parametrize(("level", "shown"), [("DEBUG", 3), ("INFO", 2), ("WARNING", 1), ("ERROR", 0)])
def test_lower_levels_are_omitted(level: str, shown: int) -> None:
    stream = logged("json", level)
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    assert len(stream.getvalue().splitlines()) == shown
