"""The contract with a WSGI server that moves response bodies itself, as ``wsgi.file_wrapper`` is one.

Such a server sets :data:`CAN_TUNNEL` in the environ. If the application returns a :class:`RelayedBody`, the server
takes it over and moves the raw body; an :class:`OpenedTunnel` it must take over. Any other server iterates as usual.

Between upstream's socket and the client's, a response passes through eight objects: ``ResponseHead``, ``RawResponse``,
``requests.Response``, ``UpstreamResponse``, ``RelayedResponse``, :class:`RelayedBody`, the server's ``HandedOver`` and
``Stream``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ocm_wsgi.errors import UpstreamCut
from ocm_wsgi.gateway.environ import CLIENT_STALL_SECONDS, Environ, client_socket, reset
from ocm_wsgi.protocol.websocket.handshake import HandshakeResponse
from ocm_wsgi.protocol.websocket.session import WebSocketSession
from ocm_wsgi.relay.answer import RelayedAnswer
from ocm_wsgi.relay.disconnects import Watch
from ocm_wsgi.relay.websocket_turns import WebSocketTurn, WebSocketTurns
from ocm_wsgi.telemetry.request_log import RequestLog
from ocm_wsgi.upstream.client import UpstreamResponse
from ocm_wsgi.upstream.response import RawResponse

#: Set in the environ by a server that takes responses and tunnels over.
CAN_TUNNEL = "ocm.can_tunnel"


class RelayedBody:
    """The body of a relayed response, for a WSGI server to iterate over and close, or to take over.

    A class and not a generator: a generator that is never started never runs its ``finally``, and upstream's
    connection would leak.

    :ivar user: the name of the client's user.
    :ivar turn: the response's turn, or ``None``.
    :ivar raw: upstream's body on the wire, once the server has taken the response over.
    """

    raw: RawResponse

    def __init__(
        self,
        upstream: UpstreamResponse,
        turn: RelayedAnswer | None,
        watch: Watch | None,
        log: RequestLog,
        environ: Environ,
    ) -> None:
        self._upstream = upstream
        self._status = upstream.status
        self.turn = turn
        self._watch = watch
        self._log = log
        self.user = log.user
        self._socket = client_socket(environ)
        self._is_framed = environ.get("SERVER_PROTOCOL") != "HTTP/1.0"
        self._pieces = upstream.pieces() if turn is None else turn.observed(upstream.pieces())
        self._sent_bytes = 0
        self._end = "" if upstream.is_bodiless else "client left"

    def __iter__(self) -> RelayedBody:
        if self._socket is not None:
            # Bounds each write: a client that reads nothing would hold this thread forever. The server makes the
            # socket blocking again before it reads the next request.
            self._socket.settimeout(CLIENT_STALL_SECONDS)
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._end = ""
            raise
        except UpstreamCut as cut:
            if not self._upstream.exchange.aborted:
                self._end = f"upstream cut it: {cut.detail}"
                if not self._is_framed:
                    reset(self._socket)
            raise
        self._sent_bytes += len(piece)
        return piece

    def take_over(self) -> bool:
        """Make the response the server's, which then neither iterates over this body nor closes it.

        It moves :attr:`raw` instead, and calls :meth:`log` or :meth:`abandon` at the end.

        :return: false if the server must iterate as usual.
        :raises OSError: upstream's connection has just broken.
        """
        raw = None if self._upstream.exchange.aborted else self._upstream.detach()
        if raw is None:
            return False
        if self._watch is not None:
            self._watch.cancel()
        self.raw = raw
        # A stream may be open for long, and needs none of these.
        del self._upstream, self._pieces, self._watch, self._socket
        return True

    def log(self, *, body_bytes: int, end: str, ended: float | None = None) -> None:
        """Write the request's line, when the response has ended.

        :param ended: when that was, on the monotonic clock; ``None`` for now.
        """
        turn = None if self.turn is None else self.turn.turn
        self._log.log(status=self._status, body_bytes=body_bytes, end=end, ended=ended, turn=turn)

    def abandon(self, end: str) -> None:
        """Give up a response that was taken over, before any of its body was sent."""
        self.raw.close()
        if self.turn is not None:
            self.turn.client_left()
            self.turn.close_async()
        self.log(body_bytes=0, end=end)

    def close(self) -> None:
        """Release everything; a server calls this after it has sent the response, or failed to."""
        if self._watch is not None:
            self._watch.cancel()
        self._upstream.close()
        if self.turn is not None:
            if self._end == "client left":
                self.turn.client_left()
            self.turn.close()
        self.log(body_bytes=self._sent_bytes, end=self._end)


@dataclass(frozen=True)
class OpenedTunnel:
    """Two connections that have become a WebSocket; a server that takes it over moves the bytes and owns all parts.

    As the body of a response it is empty, as no other server ever receives one.
    """

    answer: HandshakeResponse
    upstream: RawResponse
    session: WebSocketSession[WebSocketTurn]
    turns: WebSocketTurns
    request_log: RequestLog

    @property
    def user(self) -> str:
        """The name of the socket's user."""
        return self.request_log.user

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        """Close a tunnel that the server did not take over."""
        self.abandon("not taken over")

    def abandon(self, end: str) -> None:
        """Give up the tunnel before any data has passed."""
        self.upstream.close()
        self.log(body_bytes=0, end=end)

    def log(self, *, body_bytes: int, end: str, ended: float | None = None) -> None:
        """Write the request's line, when the tunnel has ended; ``ended`` as for :class:`RelayedBody`."""
        self.request_log.log(status=self.answer.status, body_bytes=body_bytes, end=end, ended=ended)
