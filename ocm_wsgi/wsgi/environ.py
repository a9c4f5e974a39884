"""What WSGI servers know of a request beyond PEP 3333: the exact target and fields, and the client's socket."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from ocm_wsgi.protocol.http.fields import Fields

Environ = dict[str, Any]

# The fields of the request that each thread serves.
_request = threading.local()

#: A client that takes nothing for so long has stalled; its stream ends, in seconds.
CLIENT_STALL_SECONDS = 120.0


def request_target(environ: Environ) -> str:
    """The request target, verbatim where the server tells it (gunicorn, Werkzeug, uWSGI), else rebuilt."""
    for key in ("RAW_URI", "REQUEST_URI"):
        if target := environ.get(key):
            return str(target)
    path = quote(environ.get("PATH_INFO", "").encode("latin-1"), safe="/:@!$&'()*+,;=-._~")
    query = environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


def remember_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Remember the fields of the request that this thread is about to serve, in place of the previous request's.

    For a server's hook: WSGI's environ joins repeated fields and cannot tell ``session_id`` from ``session-id``.
    """
    _request.fields = list(fields)


def request_fields() -> list[tuple[str, str]] | None:
    """Return the fields of this thread's request as they were sent, in order, or ``None`` under another server.

    gunicorn has put their names in upper case; values are Latin-1 text.
    """
    fields: list[tuple[str, str]] | None = getattr(_request, "fields", None)
    return fields


def client_fields(environ: Environ) -> Fields:
    """The request's fields: as they came under gunicorn, else as far as the environ still tells.

    An environ joins repeated fields and cannot tell ``session_id`` from ``session-id``.
    """
    exact = request_fields()
    if exact is not None:
        return exact
    fields = [
        (key[len("HTTP_") :].replace("_", "-").lower(), str(value))
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
    if environ.get("CONTENT_TYPE"):
        fields.append(("content-type", environ["CONTENT_TYPE"]))
    return fields


def announced_length(environ: Environ) -> int | None:
    """Octets that the request's body is said to have; 0 without a body; ``None`` for a chunked one."""
    if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return None
    length = environ.get("CONTENT_LENGTH") or "0"
    return int(length) if length.isascii() and length.isdigit() else 0


def has_body(environ: Environ) -> bool:
    """Whether the request has a body, be it an empty one (RFC 9112 section 6)."""
    return bool(environ.get("CONTENT_LENGTH")) or announced_length(environ) is None


def wants_websocket(environ: Environ) -> bool:
    """Whether the request asks to become a WebSocket (RFC 6455 section 4.1)."""
    return "websocket" in environ.get("HTTP_UPGRADE", "").lower()


def client_socket(environ: Environ) -> socket.socket | None:
    """The client's connection, where the server shows it."""
    found = environ.get("gunicorn.socket")
    return found if isinstance(found, socket.socket) else None


def reset(connection: socket.socket | None) -> None:
    """End a connection with a reset instead of a close.

    A client of HTTP/1.0 takes a close for the end of the body; a reset it cannot mistake. The server still holds the
    socket and will close it in its own time, so it is left an unconnected one under the same descriptor.
    """
    if connection is None:
        return
    no_linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
    with socket.socket(connection.family, connection.type) as unconnected:
        os.dup2(unconnected.fileno(), connection.fileno(), inheritable=False)
