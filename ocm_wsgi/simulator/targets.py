"""Interprets request targets as the most lenient origin would.

A proxy's checks must not depend on how OpenAI's servers interpret a path, so this tries every known way: decoded
once and more, overlong UTF-8 decoded, backslashes as slashes, path parameters dropped, dot segments resolved. A target
with an interpretation outside its API gets a private response, so that the leak is detected.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

#: Invalid UTF-8 for ``.``, ``/`` and ``\\`` that lenient decoders accept.
OVERLONG = {
    b"\xc0\xae": b".",
    b"\xc0\xaf": b"/",
    b"\xc1\x9c": b"\\",
    b"\xe0\x80\xae": b".",
    b"\xe0\x80\xaf": b"/",
    b"\xe0\x81\x9c": b"\\",
}
#: The number of percent-decodings that are tried.
MAX_DECODINGS = 3

CODEX_BASE = "/backend-api/codex"
API_BASE = "/v1"


def path_of(target: str) -> str:
    """Return a target's path as sent, without the query, and without an absolute form's scheme and authority."""
    path = re.split(r"[?#]", target, maxsplit=1)[0]
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*", "", path)


def readings(path: str) -> list[str]:
    """Return all paths that an origin might interpret this path as, the plainest first."""
    raw = path.encode("latin-1", "replace")
    found = []
    for _ in range(MAX_DECODINGS + 1):
        found.append(_resolved(raw))
        raw = unquote_to_bytes(raw)
    return found


def is_below(base: str, path: str) -> bool:
    """Return whether a path is a base path or below it."""
    return path == base or path.startswith(base + "/")


def escapes(path: str) -> bool:
    """Return whether a path below one of the two bases can be interpreted as outside of it."""
    for base in (CODEX_BASE, API_BASE):
        if path.startswith(base):
            return not all(is_below(base, reading) for reading in readings(path))
    return False


def _resolved(raw: bytes) -> str:
    for overlong, plain in OVERLONG.items():
        raw = raw.replace(overlong, plain)
    segments: list[str] = []
    for segment in raw.decode("latin-1").replace("\\", "/").split("/"):
        name = segment.partition(";")[0].partition("\x00")[0].strip("\t\r\n ")
        if name == "..":
            del segments[-1:]
        elif name not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)
