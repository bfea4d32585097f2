"""Configures loguru: text on a terminal, JSON elsewhere. No traceback contains a variable's value (diagnose is off)."""

import json
import sys
from typing import TYPE_CHECKING, TextIO

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record


def configure(format: str, level: str, stream: TextIO | None = None) -> None:
    """Write every log line to one stream.

    Args:
        format: text, json, or auto (text if the stream is a terminal).
        level: the lowest level that is logged.
        stream: stderr by default.
    """
    stream = stream or sys.stderr
    as_text = format == "text" or (format == "auto" and stream.isatty())
    logger.remove()
    if as_text:
        logger.add(stream, format=_text, level=level, backtrace=False, diagnose=False, catch=True)
    else:
        logger.add(_JsonSink(stream), format="{message}", level=level, backtrace=False, diagnose=False, catch=True)


def _text(record: "Record") -> str:
    """A loguru format. It refers to message and fields by name, so that loguru ignores braces and markup in them."""
    shown = " ".join(f"{key}={value}" for key, value in record["extra"].items())
    record["extra"]["_shown"] = "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)
    return "<dim>{time:HH:mm:ss.SSS}</dim> <level>{level: <7}</level> {message} <dim>{extra[_shown]}</dim>\n{exception}"


class _JsonSink:
    """One JSON object a line: time, level, message, then the fields."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, message: "Message") -> None:
        record = message.record
        line = {
            "time": record["time"].isoformat(timespec="milliseconds"),
            "level": record["level"].name,
            "message": record["message"],
            **record["extra"],
        }
        if record["exception"] is not None:
            line["exception"] = str(message).removeprefix(record["message"]).strip()
        self._stream.write(json.dumps(line, default=str) + "\n")
        self._stream.flush()
