"""Logging: one line a request, and nothing secret in any line, whoever wrote it and at whatever level."""

from __future__ import annotations

import logging
import re
import sys

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


def redacted(text: str) -> str:
    """The text with everything that looks like a secret masked."""
    return _SECRETS.sub(_MASK, text)


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, and masks what looks like a secret."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record."""
        return redacted(super().format(record))


#: gunicorn's own form, so that its lines and ours read as one log.
LINE_FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
DATE_FORMAT = "[%Y-%m-%d %H:%M:%S %z]"


def configure_logging() -> None:
    """Send all loggers' lines to standard error, redacted, at gunicorn's level where it is the server.

    A process that has set up its own logging keeps it.
    """
    server = logging.getLogger("gunicorn.error")
    formatter = RedactingFormatter(LINE_FORMAT, DATE_FORMAT)
    for handler in server.handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    if root.handlers:
        return
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(formatter)
    root.addHandler(to_stderr)
    root.setLevel(server.level or logging.INFO)
