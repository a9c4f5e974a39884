"""An HTTP/2 client that can reset a single stream with RST_STREAM, as browsers and Go programs do.

Python's own client (``httpx2``) reads several streams on one connection but cannot reset one.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, StreamEnded, StreamReset

from tests.clients.nginx import SERVER_NAME, Nginx

WAIT_SECONDS = 15.0


class Http2Client:
    """An HTTP/2 connection, used from one thread.

    :param connection: a TLS connection on which HTTP/2 was negotiated.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._protocol = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._received: dict[int, bytes] = defaultdict(bytes)
        self._ended: set[int] = set()
        self._protocol.initiate_connection()
        self._flush()

    def fileno(self) -> int:
        """Return the socket's descriptor, for ``select``."""
        return self._socket.fileno()

    def post(self, target: str, body: bytes, bearer_token: str) -> int:
        """Send a request; return its stream id."""
        stream = self._protocol.get_next_available_stream_id()
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": SERVER_NAME,
            ":path": target,
            "authorization": f"Bearer {bearer_token}",
            "content-length": str(len(body)),
        }
        self._protocol.send_headers(stream, list(fields.items()))
        self._protocol.send_data(stream, body, end_stream=True)
        self._flush()
        return stream

    def read_event(self, stream: int) -> bytes:
        """Return the next event of an event stream, including the blank line that ends it."""
        while b"\n\n" not in self._received[stream]:
            assert stream not in self._ended, "the stream has ended"
            self._receive()
        event, mark, self._received[stream] = self._received[stream].partition(b"\n\n")
        return event + mark

    def read_rest(self, stream: int) -> bytes:
        """Return the remaining data of a stream."""
        while stream not in self._ended:
            self._receive()
        return self._received.pop(stream)

    def reset(self, stream: int) -> None:
        """Reset one stream, and keep the connection open for the others."""
        self._protocol.reset_stream(stream, ErrorCodes.CANCEL)
        self._flush()

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        assert data, "the connection has ended"
        for event in self._protocol.receive_data(data):
            if isinstance(event, DataReceived):
                self._received[event.stream_id] += event.data
                self._protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self._ended.add(event.stream_id)
            elif isinstance(event, StreamReset):
                raise AssertionError(f"nginx has reset stream {event.stream_id}")
        self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._protocol.data_to_send())


@contextmanager
def connect_http2(nginx: Nginx) -> Iterator[Http2Client]:
    """Open a connection that is closed without a GOAWAY at the end of the context."""
    tls = nginx.own_tls()
    tls.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", nginx.https_port), timeout=WAIT_SECONDS) as plain,
        tls.wrap_socket(plain, server_hostname=SERVER_NAME) as encrypted,
    ):
        assert encrypted.selected_alpn_protocol() == "h2"
        yield Http2Client(encrypted)
