"""Validates request targets, and maps them to upstream targets. Pure; no I/O.

The owner's credential gives access to more than the Codex API, e.g. to the owner's private conversations. So a target
is refused unless it stays below the base path however an origin server might interpret it: with dot segments resolved,
percent-encodings decoded once or twice, doubled slashes merged, backslashes treated as slashes, or path parameters
removed. A valid target is sent octet for octet as the client wrote it, without any normalisation.

Source: RFC 3986 sections 3.3 and 5.2.4, RFC 9112 section 3.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes, urlsplit

from ocm_wsgi.errors import NotFound, UnsafeTarget

#: Only paths below this prefix are relayed.
API_PREFIX = "/v1/"

_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
# Exactly RFC 3986 `path`, without any octet that two parsers might interpret differently.
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*)+")
# Real query strings contain more than RFC 3986 allows; refused is only what could end or split the request line.
_QUERY = re.compile(r"[\x21\x22\x24-\x7e]*")
# A decoded path may contain printable ASCII, without a second layer of encoding, backslashes, and what would end the
# path for a server that decodes it first (..%23). This excludes overlong UTF-8 (%c0%ae), full-width dots, NUL, %255c.
_DECODED_PATH = re.compile(rb"[\x20-\x22\x24\x26-\x3e\x40-\x5b\x5d-\x7e]*")


@dataclass(frozen=True)
class Origin:
    """The address of upstream.

    :ivar scheme: ``https`` or ``http``.
    :ivar host: name or address, without brackets.
    :ivar base_path: with a leading slash and without a trailing one; empty for the root.
    """

    scheme: str
    host: str
    port: int
    base_path: str

    @property
    def authority(self) -> str:
        """The value of the ``Host`` field, without the port if it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default_port = 443 if self.scheme == "https" else 80
        return host if self.port == default_port else f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Return the origin in an absolute ``http`` or ``https`` URL, which the configuration has validated."""
        parts = urlsplit(url)
        return cls(
            scheme=parts.scheme,
            host=parts.hostname or "",
            port=parts.port or (443 if parts.scheme == "https" else 80),
            base_path=parts.path.rstrip("/"),
        )


@dataclass(frozen=True)
class ApiTarget:
    """A request target below ``/v1/`` that is safe to send.

    :ivar path: the path below ``/v1/``, as the client wrote it; never empty.
    :ivar query: with its leading ``?``, or empty.
    """

    path: str
    query: str

    @property
    def endpoint(self) -> str:
        """The decoded path below ``/v1/``, without a trailing slash, for comparison with endpoint names."""
        return unquote_to_bytes(self.path).decode("ascii").rstrip("/")

    def below(self, base_path: str) -> str:
        """Return the target in origin-form, below an upstream's base path."""
        return f"{base_path}/{self.path}{self.query}"


# Clients send the same few targets again and again.
@lru_cache(maxsize=256)
def api_target(request_target: str, *, host: str | None = None) -> ApiTarget:
    """Validate a request target, and return the part of it to send upstream.

    :param request_target: the target of the request line, verbatim, one character per octet.
    :param host: value of the ``Host`` field, which an absolute-form target must match.
    :raises NotFound: the target is not below ``/v1/``.
    :raises UnsafeTarget: the target could leave the base path, or is malformed.
    """
    path, mark, query = _origin_form(request_target, host).partition("?")
    if not path.startswith(API_PREFIX) or path == API_PREFIX:
        raise NotFound("There is nothing here: the API's paths start with /v1/.")
    if not _PATH.fullmatch(path):
        raise UnsafeTarget(
            "The request target contains a character that must be percent-encoded, or an invalid encoding."
        )
    if not _QUERY.fullmatch(query):
        raise UnsafeTarget("The query contains a character that must be percent-encoded.")
    decoded = unquote_to_bytes(path)
    if not _DECODED_PATH.fullmatch(decoded):
        raise UnsafeTarget("The request target contains an encoded character that no path of the API has.")
    *inner, last = decoded.split(b"/")[1:]
    if b"" in inner:
        raise UnsafeTarget("The request target contains an empty path segment (//).")
    if any(_is_dot_segment(segment) for segment in (*inner, last)):
        raise UnsafeTarget("The request target contains a dot segment.")
    return ApiTarget(path=path[len(API_PREFIX) :], query=mark + query)


def _origin_form(request_target: str, host: str | None) -> str:
    """Return absolute-form as origin-form, if it names this server (RFC 9112 section 3.2.2)."""
    absolute = _ABSOLUTE_FORM.match(request_target)
    if not absolute:
        return request_target
    if host is None or absolute[1].lower() != host.lower():
        raise UnsafeTarget("The request target names a different server from the Host field.")
    return request_target[absolute.end() :]


def _is_dot_segment(segment: bytes) -> bool:
    """Return whether a server might treat the segment as ``.`` or ``..``, with parameters, spaces or more dots."""
    name = segment.partition(b";")[0]
    return b"." in name and not name.strip(b". ")
