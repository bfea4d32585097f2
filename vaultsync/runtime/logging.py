"""Configures loguru: text on a terminal, JSON elsewhere. No traceback contains a variable's value (diagnose is off)."""

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, TextIO

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record


def configure(format: str, level: str, stream: TextIO | None = None) -> None:
    """Write every log line to the stream, by default stderr, as text or json; auto is text if it is a terminal."""
    stream = stream or sys.stderr
    logger.remove()
    add = partial(logger.add, level=level, backtrace=False, diagnose=False, catch=True)
    if format == "text" or (format == "auto" and stream.isatty()):
        add(stream, format=_text)
    else:
        add(partial(_write_json, stream), format="{message}")


def _text(record: "Record") -> str:
    """A loguru format. It refers to message and fields by name, so that loguru ignores braces and markup in them."""
    shown = " ".join(f"{key}={value}" for key, value in record["extra"].items())
    record["extra"]["_shown"] = "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)
    return "<dim>{time:HH:mm:ss.SSS}</dim> <level>{level: <7}</level> {message} <dim>{extra[_shown]}</dim>\n{exception}"


def _write_json(stream: TextIO, message: "Message") -> None:
    """One JSON object a line: time, level, message, then the fields."""
    record = message.record
    line = {
        "time": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": record["message"],
        **record["extra"],
    }
    if record["exception"] is not None:
        line["exception"] = str(message).removeprefix(record["message"]).strip()
    stream.write(json.dumps(line, default=str) + "\n")
    stream.flush()
