"""TLS to upstream that resumes what was agreed before: half the CPU of a handshake, and half the memory afterwards."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any


class ResumingContext(ssl.SSLContext):
    """A client's context that keeps one session a server, and offers it with every new connection there.

    A server that does not want it answers with a full handshake, whose session is the next to be kept. Who a server
    is was verified in the full handshake, for its name and with the roots of this very context: OpenSSL looks at no
    certificate when it resumes, so a session is offered under the same name only. A session lasts as long as the
    server said, at most seven days (RFC 8446 section 4.6.1).
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
        """As the base class does, with the session of this server if one is kept."""
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
        """Keep what a full handshake agreed, and let go of what its tickets were read with.

        To be called when something was received: tickets come behind the handshake.

        :param connection: with nothing left to send.
        """
        session = None if connection.session_reused else connection.session
        if session is not None and session.has_ticket:
            self._sessions[connection.server_hostname] = session
        _release_write_buffer(connection)


def _release_write_buffer(connection: ssl.SSLSocket) -> None:
    """Give back 17 KiB that would be kept until the next write: for a stream, to its end.

    OpenSSL 3.0 makes room to answer whatever message of a handshake it reads, and a ticket is one that is not
    answered. To write nothing sends nothing (SSL_write_ex(3)). But where a write has failed half-way it would break
    the connection, from which the response may still be read.
    """
    timeout = connection.gettimeout()
    connection.setblocking(False)  # It would wait until there is room to send.
    with contextlib.suppress(OSError):
        connection.send(b"")
    connection.settimeout(timeout)
