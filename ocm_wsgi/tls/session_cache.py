"""TLS session resumption for upstream: half the CPU of a full handshake, and half the memory afterwards."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any


class ResumingContext(ssl.SSLContext):
    """A client context that caches one session per server and offers it on every new connection to that server.

    A server that does not accept the session does a full handshake, whose session is cached next. The server's identity
    was verified in the full handshake, for its name and against the roots of this very context: OpenSSL checks no
    certificate on resumption, so a session is only offered under the same name. A session lasts as long as the server
    specified, at most seven days (RFC 8446 section 4.6.1).
    """

    def __init__(self, *_protocol: Any) -> None:
        super().__init__()
        self._sessions: dict[str | bytes | None, ssl.SSLSession] = {}

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """Wrap a socket as the base class does, with the cached session of this server if there is one."""
        try:
            return super().wrap_socket(
                sock,
                server_side,
                do_handshake_on_connect,
                suppress_ragged_eofs,
                server_hostname,
                session or self._sessions.get(server_hostname),
            )
        except OSError:
            self._sessions.pop(server_hostname, None)
            raise

    def keep_session(self, connection: ssl.SSLSocket) -> None:
        """Cache the session of a full handshake, and free the buffer that its tickets were read with.

        Call this after data was received: tickets arrive after the handshake.

        :param connection: must have nothing left to send.
        """
        session = None if connection.session_reused else connection.session
        if session is not None and session.has_ticket:
            self._sessions[connection.server_hostname] = session
        _release_write_buffer(connection)


def _release_write_buffer(connection: ssl.SSLSocket) -> None:
    """Free 17 KiB that would be held until the next write: for a stream, until its end.

    OpenSSL 3.0 allocates a buffer to answer any handshake message that it reads, and a ticket is never answered. An
    empty write sends nothing (SSL_write_ex(3)). But after a partially failed write it would break the connection,
    from which the response may still be read.
    """
    timeout = connection.gettimeout()
    connection.setblocking(False)  # It would block until there is space to send.
    with contextlib.suppress(OSError):
        connection.send(b"")
    connection.settimeout(timeout)
