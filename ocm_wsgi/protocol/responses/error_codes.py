"""Finds the code of an error in the shapes that OpenAI's backends use. Pure; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LONGEST_LABEL = 256

# Where the error is: the platform and the Codex backend use the first, the ChatGPT backend the second, and gateways in
# front of them the third, which is a list, as the second may be too.
_PLACES = ("error", "detail", "errors")

# A text that is a code. Other texts in these places are sentences, or titles such as "Unauthorized".
_CODE = re.compile(r"[a-z0-9]+(?:[_.-][a-z0-9]+)*", re.ASCII)


def error_code(body: object) -> str | None:
    """Return the code in the body of an error, or in an ``error`` event; ``None`` if it has none.

    It is the error's code, else its type. With several errors the first one counts.
    """
    if not isinstance(body, Mapping):
        return None
    for place in _PLACES:
        error = body.get(place)
        if isinstance(error, list) and error:
            error = error[0]
        code = _code_of(error)
        if code is not None:
            return code
    return label(body.get("error")) or label(body.get("code"))


def label(value: object) -> str | None:
    """Return a name that is safe for a database, a log line and a page, i.e. short and printable; else ``None``."""
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_LABEL and value.isprintable():
        return value
    return None


def _code_of(error: object) -> str | None:
    if isinstance(error, str):
        return label(error) if _CODE.fullmatch(error) else None
    if not isinstance(error, Mapping):
        return None
    return label(error.get("code")) or label(error.get("type"))
