"""One request to upstream: its head, exactly as it is sent, and a handle with which another thread can end it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping

from ocm_wsgi.protocol.http.fields import Fields

#: For connections to upstream, which may be silent for minutes: keepalive detects a peer that is gone, not silence.
SOCKET_OPTIONS: list[tuple[int, int, int]] = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]


class Aborted(ConnectionError):
    """The exchange was aborted on our side while it was waiting for upstream."""


class Exchange:
    """One request and its response, which another thread can abort.

    Closing a response from another thread blocks until its reader returns; shutting down the socket wakes the reader
    immediately. So a client's disconnect is passed on by :meth:`abort`, in whatever state the exchange is.

    :ivar is_sent: whether the request has been sent, so that upstream may be working on it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.aborted = False
        self.is_sent = False

    def attach(self, connection_socket: socket.socket | None) -> None:
        """Set the socket that carries the exchange from now on.

        :raises Aborted: the exchange has been aborted in the meantime.
        """
        with self._lock:
            self._socket = connection_socket
            if self.aborted:
                raise Aborted("the client is gone")

    def detach(self) -> None:
        """Forget the socket, which may serve another exchange from now on."""
        with self._lock:
            self._socket = None

    def begin_again(self) -> None:
        """Forget an attempt that upstream has answered, before another one."""
        with self._lock:
            self._socket = None
            self.is_sent = False

    def abort(self) -> None:
        """End the exchange. May be called from any thread, any number of times."""
        with self._lock:
            self.aborted = True
            if self._socket is not None:
                # The plain socket's method, also under TLS: SSLSocket.shutdown() takes the TLS object away from the
                # thread that is reading with it. If the socket is already closed, nothing is left to do.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class RequestHead:
    """The head of a request, exactly as it is sent. Implements what requests and urllib3 need of a header mapping.

    :param target: the request target, sent byte for byte.
    :param fields: all fields, including ``host`` and ``content-length``, with names in lower case.
    :param exchange: gets the socket that carries the request.
    """

    def __init__(self, target: str, fields: Fields, exchange: Exchange) -> None:
        self.target = target
        self.exchange = exchange
        self._fields = list(fields)

    def __contains__(self, field_name: str) -> bool:
        """Return whether there is such a field. requests checks this, and would otherwise choose the body's framing."""
        return any(name == field_name.lower() for name, _ in self._fields)

    def copy(self) -> RequestHead:
        """Return a copy. urllib3 makes one before it adds a forwarding proxy's fields."""
        return RequestHead(self.target, self._fields, self.exchange)

    def update(self, more: Mapping[str, str]) -> None:
        """Add fields. urllib3 does so for a forwarding proxy."""
        self._fields += [(name.lower(), value) for name, value in more.items()]

    def encode(self, method: str) -> bytes:
        """Return the head as bytes.

        :raises ValueError: a character in it would end a line, or cannot be sent.
        """
        lines = [f"{method} {self.target} HTTP/1.1", *[f"{name}: {value}" for name, value in self._fields], "", ""]
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
            raise ValueError("a field of the request contains a character that is not allowed in fields")
        return text.encode("latin-1")
