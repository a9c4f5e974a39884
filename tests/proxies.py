"""Two small forward proxies on loopback for tests: SOCKS5 (RFC 1928, 1929) and HTTP CONNECT.

They forward bytes and record the requested targets.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator


class ForwardProxy(socketserver.ThreadingTCPServer):
    """A proxy that requires user ``scout`` with password ``p@ss:word``, and resolves every name to loopback."""

    daemon_threads = True
    allow_reuse_address = True
    USER, PASSWORD = "scout", "p@ss:word"

    def __init__(self, handler: type[socketserver.StreamRequestHandler]) -> None:
        self.targets: list[str] = []
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def port(self) -> int:
        """The address it listens on."""
        return int(self.server_address[1])

    @contextlib.contextmanager
    def running(self) -> Iterator[ForwardProxy]:
        """Serve until the context ends."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class _Handler(socketserver.StreamRequestHandler):
    server: ForwardProxy
    rbufsize = 0

    def splice(self, port: int) -> None:
        """Forward bytes in both directions until either side closes."""
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            back = threading.Thread(target=_pump, args=(upstream, self.connection))
            back.start()
            _pump(self.connection, upstream)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Socks5(_Handler):
    """A SOCKS5 proxy with user and password, for names and addresses."""

    def handle(self) -> None:
        """Negotiate, then splice."""
        _, methods = self.rfile.read(2)
        self.rfile.read(methods)
        self.wfile.write(b"\x05\x02")
        self.rfile.read(1)
        user = self.rfile.read(self.rfile.read(1)[0]).decode()
        password = self.rfile.read(self.rfile.read(1)[0]).decode()
        if (user, password) != (self.server.USER, self.server.PASSWORD):
            self.wfile.write(b"\x01\x01")
            return
        self.wfile.write(b"\x01\x00")
        kind = self.rfile.read(4)[3]
        host = socket.inet_ntoa(self.rfile.read(4)) if kind == 1 else self.rfile.read(self.rfile.read(1)[0]).decode()
        (port,) = struct.unpack("!H", self.rfile.read(2))
        self.server.targets.append(f"{host}:{port}")
        self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
        self.splice(port)


class HttpProxy(_Handler):
    """An HTTP proxy with CONNECT, and absolute-form for plain HTTP."""

    def handle(self) -> None:
        """Check the credentials, then splice."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = self.rfile.read(1)
            if not piece:
                return
            head += piece
        wanted = base64.b64encode(f"{self.server.USER}:{self.server.PASSWORD}".encode())
        request_line, *fields = head.split(b"\r\n")
        if not any(f.lower() == b"proxy-authorization: basic " + wanted.lower() for f in fields):
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = request_line.decode().split(" ")
        self.server.targets.append(f"{method} {target}")
        if method == "CONNECT":
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self.splice(int(target.rpartition(":")[2]))
        else:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nforwarded")
