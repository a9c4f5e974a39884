"""Access to what WSGI servers provide beyond PEP 3333: the exact target and fields, and the client's socket."""

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

#: Set in the environ by a server that says how many threads of its process handle requests.
REQUEST_THREADS = "ocm.request_threads"

# The fields of the request that each thread serves.
_request = threading.local()

#: After this time a client that reads nothing counts as stalled, and its stream is ended.
CLIENT_STALL_SECONDS = 120.0


def request_target(environ: Environ) -> str:
    """Return the request target, verbatim if the server provides it (gunicorn, Werkzeug, uWSGI), else rebuilt."""
    for key in ("RAW_URI", "REQUEST_URI"):
        if target := environ.get(key):
            return str(target)
    path = quote(environ.get("PATH_INFO", "").encode("latin-1"), safe="/:@!$&'()*+,;=-._~")
    query = environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


def remember_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Remember the fields of the request that this thread is about to serve, in place of the previous request's.

    For a server's hook: WSGI's environ joins repeated fields and cannot distinguish ``session_id`` from ``session-id``.
    """
    _request.fields = list(fields)


def request_fields() -> list[tuple[str, str]] | None:
    """Return the fields of this thread's request as they were sent, in order, or ``None`` under another server.

    gunicorn has put their names in upper case; values are Latin-1 text.
    """
    fields: list[tuple[str, str]] | None = getattr(_request, "fields", None)
    return fields


def client_fields(environ: Environ) -> Fields:
    """Return the request's fields: exact under gunicorn, else as far as the environ has them.

    An environ joins repeated fields and cannot distinguish ``session_id`` from ``session-id``.
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
    """Return the announced size of the request's body in bytes; 0 without a body, ``None`` for a chunked one."""
    if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return None
    length = environ.get("CONTENT_LENGTH") or "0"
    return int(length) if length.isascii() and length.isdigit() else 0


def has_body(environ: Environ) -> bool:
    """Return whether the request has a body, possibly an empty one (RFC 9112 section 6)."""
    return bool(environ.get("CONTENT_LENGTH")) or announced_length(environ) is None


def wants_websocket(environ: Environ) -> bool:
    """Return whether the request is a WebSocket handshake (RFC 6455 section 4.1)."""
    return "websocket" in environ.get("HTTP_UPGRADE", "").lower()


def client_socket(environ: Environ) -> socket.socket | None:
    """Return the client's socket, if the server exposes it."""
    found = environ.get("gunicorn.socket")
    return found if isinstance(found, socket.socket) else None


def local_address(environ: Environ) -> str:
    """Return the address that the client connected to; ``""`` for a Unix socket, or if the server hides its socket."""
    connection = client_socket(environ)
    name = None if connection is None else connection.getsockname()
    return str(name[0]) if isinstance(name, tuple) else ""


def reset_on_close(connection: socket.socket) -> None:
    """Make the kernel send a reset when the connection is closed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset(connection: socket.socket | None) -> None:
    """End a connection with a reset, and leave its descriptor to the server that will close it.

    An HTTP/1.0 client takes a close for the end of the body, but not a reset. The server still holds the socket, so an
    unconnected one takes its place under the same descriptor.
    """
    if connection is None:
        return
    reset_on_close(connection)
    with socket.socket(connection.family, connection.type) as unconnected:
        os.dup2(unconnected.fileno(), connection.fileno(), inheritable=False)
