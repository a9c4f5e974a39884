"""Logging: one line per request, and no secret in any line, whichever logger wrote it and at whatever level.

Lines are text for people or JSON for programs. They are shorter than an atomic write to a pipe, so lines of several
processes never interleave.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.quota.limits import MICRO_PER_USD

LogFormat = Literal["text", "json"]

access_logger = logging.getLogger("ocm_wsgi.access")

#: Longest line in bytes, including the line break. Linux writes up to 4,096 bytes to a pipe atomically (PIPE_BUF).
LINE_BYTES = 4000

_MASK = "[secret]"
# Defence in depth: our code logs no token, but a client may put one into a URL, and a library may log that.
_SECRETS = re.compile(
    r"""
      (?<![A-Za-z0-9_-]) sk-[A-Za-z0-9_-]{8,}                         # bearer tokens of ours, OpenAI's API keys
    | (?<![A-Za-z0-9_-]) rt[_.-][A-Za-z0-9_.-]{16,}                   # OpenAI's refresh tokens
    | (?<![A-Za-z0-9_-]) eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*   # JSON Web Tokens
    | (?<=[Bb]earer[ ]) [A-Za-z0-9\-._~+/]{8,}=*                      # any other bearer token
    | (?<=://) [^/\s:@]+:[^/\s@]+ (?=@)                               # user and password in a URL
    """,
    re.VERBOSE,
)
# Every secret contains one of these. Few lines do, and searching for them costs next to nothing.
_MARKERS = ("sk-", "rt_", "rt.", "rt-", "eyJ", "earer ", "://")


def redacted(text: str) -> str:
    """Return the text with everything that looks like a secret masked."""
    for marker in _MARKERS:
        if marker in text:
            return _SECRETS.sub(_MASK, text)
    return text


@dataclass(frozen=True)
class RequestLine:
    """The log line of one request, written at its end.

    :ivar user: ``""`` if no token was required, or none was recognised.
    :ivar path: without the query.
    :ivar body_bytes: size of the response's body, as sent to the client.
    :ivar request_id: the client's ID of the request, which is sent upstream, too; ``""`` if there is none.
    :ivar turn: its record in the ledger, if it was a turn.
    :ivar end: why it ended abnormally, or ``""``.
    """

    user: str
    method: str
    path: str
    status: int
    body_bytes: int
    duration_seconds: float
    request_id: str = ""
    turn: Turn | None = None
    end: str = ""

    @property
    def upstream_request_id(self) -> str:
        """Upstream's ID of the request, or ``""`` if it is unknown or the same as the client's."""
        return "" if self.turn is None or self.turn.request_id == self.request_id else self.turn.request_id

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """Return the line for people."""
        words = [_word(self.user), _word(self.method), _word(self.path), str(self.status), f"{self.body_bytes} B"]
        words.append(f"{self.duration_seconds:.3f} s")
        if self.turn is not None:
            words += _words_of_turn(self.turn)
        if self.request_id:
            words.append(f"id={_word(self.request_id)}")
        if self.upstream_request_id:
            words.append(f"upstream_id={_word(self.upstream_request_id)}")
        if self.end:
            words.append(f"({_printable(self.end)})")
        return " ".join(words)

    def members(self) -> dict[str, Any]:
        """Return the line for programs, without the members whose value is unknown."""
        members = {
            "user": self.user,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "bytes": self.body_bytes,
            "duration_seconds": round(self.duration_seconds, 3),
            **({} if self.turn is None else _members_of_turn(self.turn)),
            "request_id": self.request_id,
            "upstream_request_id": self.upstream_request_id,
            "end": self.end,
        }
        return {name: value for name, value in members.items() if value not in ("", None)}


def write(line: RequestLine, level: int = logging.INFO) -> None:
    """Log the line of a request."""
    if access_logger.isEnabledFor(level):
        # Not with ``log``, which would search the stack for the file and line that it is called from.
        access_logger.handle(access_logger.makeRecord(access_logger.name, level, __file__, 0, line, (), None))


def _words_of_turn(turn: Turn) -> list[str]:
    words = [f"first {turn.first_byte_ms / 1000:.3f} s", _word(turn.model), turn.status]
    if turn.usage is not None:
        tokens = f"{turn.usage.input_tokens}+{turn.usage.output_tokens} tokens"
        words.append(f"{tokens} (estimated)" if turn.estimated else tokens)
    return words


def _members_of_turn(turn: Turn) -> dict[str, Any]:
    members: dict[str, Any] = {
        "first_byte_seconds": turn.first_byte_ms / 1000,
        "model": turn.model,
        "turn": turn.id,
        "turn_status": turn.status,
        "transport": turn.transport,
        "error_code": turn.error_code,
    }
    if turn.usage is not None:
        members |= {
            "input_tokens": turn.usage.input_tokens,
            "cached_tokens": turn.usage.cached_tokens,
            "output_tokens": turn.usage.output_tokens,
            "reasoning_tokens": turn.usage.reasoning_tokens,
            "estimated": turn.estimated or None,
        }
    if turn.cost_micro_usd is not None:
        members["cost_usd"] = turn.cost_micro_usd / MICRO_PER_USD
    return members


def _word(text: str) -> str:
    """Return text that a client chose as one word that cannot forge another line."""
    return _printable(text).replace(" ", "\\x20") or "-"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _shortened(text: str, size: int) -> str:
    """Return the text in at most ``size`` bytes: its start, and more of its end, where a traceback names the exception.

    Characters that cannot be encoded in UTF-8 are escaped: a log file could not hold them.
    """
    if len(text) <= size and text.isascii():
        return text
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= size:
        return encoded.decode()
    ellipsis = " ... "
    room = size - len(ellipsis)
    head, tail = encoded[: room // 4], encoded[len(encoded) - (room - room // 4) :]
    return head.decode("utf-8", "ignore") + ellipsis + tail.decode("utf-8", "ignore")


class RedactingFormatter(logging.Formatter):
    """Formats a record, including its traceback, and masks what looks like a secret."""

    _formatted_time: tuple[int, str] = (0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Format a record's time, which most records share with the one before."""
        second = int(record.created)
        known, text = self._formatted_time
        if second != known or not datefmt:
            text = super().formatTime(record, datefmt)
            self._formatted_time = second, text
        return text

    def format(self, record: logging.LogRecord) -> str:
        """Format the record."""
        return _shortened(redacted(super().format(record)), LINE_BYTES - 1)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line, and masks what looks like a secret.

    ``time`` is in the format of RFC 3339, in UTC. The line of a request has its own members in place of ``message``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the record."""
        members = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            **self._content(record),
        }
        size = LINE_BYTES // 2
        while True:
            # Each text is redacted separately: joined by JSON syntax, two could look like one secret. Escapes add to
            # the length, hence the loop.
            shown = {
                name: _shortened(redacted(value), size) if isinstance(value, str) else value
                for name, value in members.items()
            }
            line = json.dumps(shown, ensure_ascii=False).encode("utf-8", "backslashreplace")
            if len(line) < LINE_BYTES:
                return line.decode()
            size //= 2

    def _content(self, record: logging.LogRecord) -> dict[str, Any]:
        if isinstance(record.msg, RequestLine):
            return record.msg.members()
        content = {"message": record.getMessage()}
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return content


#: gunicorn's own format, so that its lines and ours read as one log.
LINE_FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
DATE_FORMAT = "[%Y-%m-%d %H:%M:%S %z]"


def configure_logging(log_format: LogFormat = "text") -> None:
    """Send the lines of all loggers to standard error, redacted; at gunicorn's level if it is the server.

    Logging that the process has set up itself is left alone.
    """
    server = logging.getLogger("gunicorn.error")
    formatter = JsonFormatter() if log_format == "json" else RedactingFormatter(LINE_FORMAT, DATE_FORMAT)
    for handler in server.handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    if root.handlers:
        return
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(formatter)
    root.addHandler(to_stderr)
    root.setLevel(server.level or logging.INFO)
