"""Logging: one line a request, and nothing secret in any line, whoever wrote it and at whatever level.

Lines are text for people or JSON for programs, and shorter than what a pipe takes in one piece, so that those of
several processes never run into each other.
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

#: Octets of one line, its end included. Linux writes up to 4,096 to a pipe in one piece (PIPE_BUF).
LINE_BYTES = 4000

_MASK = "[secret]"
# Defence in depth: no code of ours logs a token, but a client may put one into a URL, and a library may log that.
_SECRETS = re.compile(
    r"""
      (?<![A-Za-z0-9_-]) sk-[A-Za-z0-9_-]{8,}                         # bearer tokens of ours, OpenAI's API keys
    | (?<![A-Za-z0-9_-]) rt[_.-][A-Za-z0-9_.-]{16,}                   # OpenAI's refresh tokens
    | (?<![A-Za-z0-9_-]) eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*   # JSON Web Tokens
    | (?<=[Bb]earer[ ]) [A-Za-z0-9\-._~+/]{8,}=*                      # whatever else is presented as one
    | (?<=://) [^/\s:@]+:[^/\s@]+ (?=@)                               # user and password in a URL
    """,
    re.VERBOSE,
)
#: One of these is in each of them. Hardly any line has one, and to look for them costs next to nothing.
_MARKS = ("sk-", "rt_", "rt.", "rt-", "eyJ", "earer ", "://")


def redacted(text: str) -> str:
    """The text with everything that looks like a secret masked."""
    return _SECRETS.sub(_MASK, text) if any(mark in text for mark in _MARKS) else text


@dataclass(frozen=True)
class RequestLine:
    """What the log says of one request, at its end.

    :ivar user: ``""`` where nobody was asked for a token, or nobody was recognised.
    :ivar path: without the query.
    :ivar octets: of the response's body, as they went to the client.
    :ivar request_id: what the client calls the request, which upstream is told too; ``""`` when it has no name for it.
    :ivar turn: what the ledger has of it, if it was a turn.
    :ivar end: why it did not end as it should, or ``""``.
    """

    user: str
    method: str
    path: str
    status: int
    octets: int
    duration_seconds: float
    request_id: str = ""
    turn: Turn | None = None
    end: str = ""

    @property
    def upstream_request_id(self) -> str:
        """What upstream calls the request, as far as it says."""
        return "" if self.turn is None or self.turn.request_id == self.request_id else self.turn.request_id

    def text(self) -> str:
        """The line for people."""
        words = [_word(self.user), _word(self.method), _word(self.path), str(self.status), f"{self.octets} B"]
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
        """The line for programs. What is not known is left out."""
        members = {
            "user": self.user,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "bytes": self.octets,
            "duration_seconds": round(self.duration_seconds, 3),
            **({} if self.turn is None else _members_of_turn(self.turn)),
            "request_id": self.request_id,
            "upstream_request_id": self.upstream_request_id,
            "end": self.end,
        }
        return {name: value for name, value in members.items() if value not in ("", None)}


def write(line: RequestLine, level: int = logging.INFO) -> None:
    """Write the line of a request."""
    access_logger.log(level, "%s", line.text(), extra={"request_line": line})


def _words_of_turn(turn: Turn) -> list[str]:
    words = [f"first {turn.first_byte_ms / 1000:.3f} s", _word(turn.model), turn.status]
    if turn.usage is not None:
        words.append(f"{turn.usage.input_tokens}+{turn.usage.output_tokens} tokens")
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
        }
    if turn.cost_micro_usd is not None:
        members["cost_usd"] = turn.cost_micro_usd / MICRO_PER_USD
    return members


def _word(text: str) -> str:
    """Text of a client's choosing as one word, in which no other line can be feigned."""
    return _printable(text).replace(" ", "\\x20") or "-"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _shortened(text: str, size: int) -> str:
    """The text in at most so many octets: its beginning, and more of its end, where a traceback says what it was.

    What has no UTF-8 is written as an escape, or a log file could not take it.
    """
    octets = text.encode("utf-8", "backslashreplace")
    if len(octets) <= size:
        return octets.decode()
    mark = " ... "
    room = size - len(mark)
    head, tail = octets[: room // 4], octets[len(octets) - (room - room // 4) :]
    return head.decode("utf-8", "ignore") + mark + tail.decode("utf-8", "ignore")


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, and masks what looks like a secret."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record."""
        return _shortened(redacted(super().format(record)), LINE_BYTES - 1)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line, and masks what looks like a secret.

    ``time`` is RFC 3339 in UTC. A request's line has its members in place of ``message``.
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
            # Each text by itself: across the marks of JSON two could look like one secret. What needs escapes grows.
            shown = {
                name: _shortened(redacted(value), size) if isinstance(value, str) else value
                for name, value in members.items()
            }
            line = json.dumps(shown, ensure_ascii=False).encode("utf-8", "backslashreplace")
            if len(line) < LINE_BYTES:
                return line.decode()
            size //= 2

    def _content(self, record: logging.LogRecord) -> dict[str, Any]:
        line = getattr(record, "request_line", None)
        if isinstance(line, RequestLine):
            return line.members()
        content = {"message": record.getMessage()}
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return content


#: gunicorn's own form, so that its lines and ours read as one log.
LINE_FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
DATE_FORMAT = "[%Y-%m-%d %H:%M:%S %z]"


def configure_logging(log_format: LogFormat = "text") -> None:
    """Send all loggers' lines to standard error, redacted, at gunicorn's level where it is the server.

    A process that has set up its own logging keeps it.
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
