"""Reading a request target as the most credulous origin would.

A proxy's guard may not rely on how OpenAI's servers read a path, so this reads it in every way known: percent-decoded
once and twice, overlong UTF-8 decoded, backslashes as slashes, path parameters dropped, dot segments resolved. A
target whose readings leave the API it seems to be for gets what a leak would show.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

#: Invalid UTF-8 for ``.``, ``/`` and ``\\`` that careless decoders accept.
OVERLONG = {
    b"\xc0\xae": b".",
    b"\xc0\xaf": b"/",
    b"\xc1\x9c": b"\\",
    b"\xe0\x80\xae": b".",
    b"\xe0\x80\xaf": b"/",
    b"\xe0\x81\x9c": b"\\",
}
#: How many times a path may be percent-encoded and still be found out.
MAX_DECODINGS = 3

CODEX_BASE = "/backend-api/codex"
API_BASE = "/v1"


def path_of(target: str) -> str:
    """Return a target's path as sent, without query; scheme and authority of an absolute form are dropped."""
    path = re.split(r"[?#]", target, maxsplit=1)[0]
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*", "", path)


def readings(path: str) -> list[str]:
    """Return all resolved paths that an origin might take this path for, the plainest first."""
    raw = path.encode("latin-1", "replace")
    found = []
    for _ in range(MAX_DECODINGS + 1):
        found.append(_resolved(raw))
        raw = unquote_to_bytes(raw)
    return found


def is_below(base: str, path: str) -> bool:
    return path == base or path.startswith(base + "/")


def escapes(path: str) -> bool:
    """Whether a path that begins with one of the two bases can be read as one outside of it."""
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
