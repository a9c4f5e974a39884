"""Which upstream target a request target means, and which targets are never sent. Pure; no I/O.

Behind the owner's credential lie more than the Codex API: the owner's private conversations, for one. So a target
is refused unless it stays below the base path however an origin server might read it: with dot segments resolved,
with percent-encodings decoded once or twice, with doubled slashes merged, with backslashes taken for slashes, with
path parameters cut off. What passes is sent octet for octet as the client wrote it; nothing is normalised on the way.

Source: RFC 3986 sections 3.3 and 5.2.4, RFC 9112 section 3.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from ocm_wsgi.errors import NotFound, UnsafeTarget

#: Everything below this prefix is the API; nothing else is relayed.
API_PREFIX = "/v1/"

_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
# RFC 3986 `path` and nothing more lenient: every octet that two parsers might read differently is left out.
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*)+")
# Query strings in the wild hold more than RFC 3986 allows; only what could end or split the request line is refused.
_QUERY = re.compile(r"[\x21\x22\x24-\x7e]*")
# What a decoded path may hold: printable ASCII without a second layer of encoding and without backslashes.
# Overlong UTF-8 (%c0%ae), full-width dots, NUL and %255c all fall outside it.
_DECODED_PATH = re.compile(rb"[\x20-\x24\x26-\x5b\x5d-\x7e]*")


@dataclass(frozen=True)
class Origin:
    """Where upstream is.

    :ivar scheme: ``https`` or ``http``.
    :ivar host: name or address, without brackets.
    :ivar base_path: begins with a slash and ends without one; empty for the root.
    """

    scheme: str
    host: str
    port: int
    base_path: str

    @property
    def authority(self) -> str:
        """The ``Host`` field's value: the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default_port = 443 if self.scheme == "https" else 80
        return host if self.port == default_port else f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Take an absolute ``http`` or ``https`` URL apart. The configuration has checked it already."""
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

    :ivar rest: the path behind ``/v1/``, as the client wrote it; never empty.
    :ivar query: with its leading ``?``, or empty.
    """

    rest: str
    query: str

    @property
    def endpoint(self) -> str:
        """The decoded path behind ``/v1/``, without a trailing slash, for comparing with endpoint names."""
        return unquote_to_bytes(self.rest).decode("ascii").rstrip("/")

    def below(self, base_path: str) -> str:
        """The target in origin-form below an upstream's base path."""
        return f"{base_path}/{self.rest}{self.query}"


def api_target(request_target: str, *, host: str | None = None) -> ApiTarget:
    """Check a request target and return what of it goes upstream.

    :param request_target: the target of the request line, verbatim, one character per octet.
    :param host: value of the ``Host`` field, which an absolute-form target must agree with.
    :raises NotFound: the target is not below ``/v1/``.
    :raises UnsafeTarget: it could leave the base path, or is no well-formed target at all.
    """
    path, mark, query = _origin_form(request_target, host).partition("?")
    if not path.startswith(API_PREFIX) or path == API_PREFIX:
        raise NotFound("Nothing is served here: the API's paths start with /v1/.")
    if not _PATH.fullmatch(path):
        raise UnsafeTarget("The request target holds a character that must be percent-encoded, or a broken encoding.")
    if not _QUERY.fullmatch(query):
        raise UnsafeTarget("The query holds a character that must be percent-encoded.")
    decoded = unquote_to_bytes(path)
    if not _DECODED_PATH.fullmatch(decoded):
        raise UnsafeTarget("The request target holds an encoded character that no path of the API has.")
    *inner, last = decoded.split(b"/")[1:]
    if b"" in inner:
        raise UnsafeTarget("The request target holds an empty path segment (//).")
    if any(_is_dot_segment(segment) for segment in (*inner, last)):
        raise UnsafeTarget("The request target holds a dot segment.")
    return ApiTarget(rest=path[len(API_PREFIX) :], query=mark + query)


def _origin_form(request_target: str, host: str | None) -> str:
    """Reduce absolute-form to origin-form, if it names this very server (RFC 9112 section 3.2.2)."""
    absolute = _ABSOLUTE_FORM.match(request_target)
    if not absolute:
        return request_target
    if host is None or absolute[1].lower() != host.lower():
        raise UnsafeTarget("The request target names another server than the Host field.")
    return request_target[absolute.end() :]


def _is_dot_segment(segment: bytes) -> bool:
    """Whether some server might take the segment for ``.`` or ``..``: with parameters, blanks or more dots."""
    name = segment.partition(b";")[0]
    return b"." in name and not name.strip(b". ")
