"""Finds the code of an error in the shapes that OpenAI's backends use. Pure; no I/O."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable

_LONGEST_LABEL = 256

# Where the error is: the platform and the Codex backend use the first, the ChatGPT backend the second, and gateways in
# front of them the third, which is a list, as the second may be too.
_PLACES = ("error", "detail", "errors")

# A text that is a code. Other texts in these places are sentences, or titles such as "Unauthorized".
_CODE = re.compile(r"[a-z0-9]+(?:[_.-][a-z0-9]+)*", re.ASCII)

# The code in a challenge (RFC 6750 section 3).
_CHALLENGE_ERROR = re.compile(r'\berror="?([a-z_]+)', re.ASCII)


def error_code(body: object) -> str | None:
    """Return the code in the body of an error, or in an ``error`` event; ``None`` if it has none.

    It is the error's code, else its type. With several errors the first one counts.
    """
    if not isinstance(body, dict):
        return None
    for place in _PLACES:
        error = body.get(place)
        if error is None:
            continue
        if isinstance(error, list) and error:
            error = error[0]
        code = _code_of(error)
        if code is not None:
            return code
    error, code = body.get("error"), body.get("code")
    return None if error is None and code is None else label(error) or label(code)


def code_in_fields(fields: Iterable[tuple[str, str]]) -> str | None:
    """Return the code that the fields of an error response name beside its body, or ``None``."""
    values = {name.lower(): value for name, value in fields}
    code = error_code(_decoded_json(values.get("x-error-json", "")))
    authorization_error = values.get("x-openai-authorization-error", "").strip()
    if code is None and _CODE.fullmatch(authorization_error):
        code = label(authorization_error)
    if code is None and (found := _CHALLENGE_ERROR.search(values.get("www-authenticate", ""))):
        code = found[1]
    return code


def _decoded_json(value: str) -> object:
    try:
        return json.loads(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None


def label(value: object) -> str | None:
    """Return a name that is safe for a database, a log line and a page, i.e. short and printable; else ``None``."""
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_LABEL and value.isprintable():
        return value
    return None


def _code_of(error: object) -> str | None:
    if isinstance(error, str):
        return label(error) if _CODE.fullmatch(error) else None
    if not isinstance(error, dict):
        return None
    return label(error.get("code")) or label(error.get("type"))
