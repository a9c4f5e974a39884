"""Bodies that arrive while the event loop waits for them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn import http
from gunicorn.config import Config

from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.server.body_arrival import BodyArrivals, IncompleteBody, incomplete_body, leave_source
from ocm_wsgi.server.request_adapters import BLOCK_SECONDS

HEAD = b"POST /v1/responses HTTP/1.1\r\nHost: ocm\r\n"
LENGTH = HEAD + b"Content-Length: 200000\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LIMIT = 2**20


class Upload:
    """A request whose head has been parsed by gunicorn, with the far end of its connection."""

    def __init__(self, resources: ExitStack, sent: bytes) -> None:
        self.loop = Loop()
        resources.callback(self.loop.close)
        near, self.far = map(resources.enter_context, socket.socketpair())
        self.far.sendall(sent)
        self.conn: Any = SimpleNamespace(sock=near, parser=http.get_parser(Config(), near, ("", 0)))
        self.req = next(self.conn.parser)
        resources.callback(leave_source, self.conn)
        self.ended: list[Any] = []
        self.sent_bytes = 0
        self.arrivals = BodyArrivals(self.loop, on_arrived=lambda conn, _user: self.ended.append(conn))

    def expect(self) -> IncompleteBody:
        """Begin to wait, as after a thread found the body to be incomplete."""
        body = incomplete_body(self.conn, self.req)
        assert body is not None
        assert not body.read_eagerly()
        body.limit_bytes = LIMIT
        self.arrivals.expect(body)
        return body

    def send(self, data: bytes) -> None:
        """Send a part of the body, and let the loop read it."""
        self.far.setblocking(False)
        while data and not self.ended:
            with suppress(BlockingIOError):
                sent = self.far.send(data)
                self.sent_bytes += sent
                data = data[sent:]
            self.loop.run(0.01)

    def body(self) -> bytes:
        """Return the body as the application reads it, after gunicorn has begun to handle the request again."""
        assert self.ended == [self.conn]
        assert next(self.conn.parser) is self.req
        assert incomplete_body(self.conn, self.req) is None
        self.conn.sock.settimeout(5)
        return bytes(self.req.body.read())


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    """A stack that closes what the test has opened."""
    with ExitStack() as stack:
        yield stack


def chunked(content: bytes, size: int) -> bytes:
    """Return a chunked body."""
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nX: trailer\r\n\r\n"


@pytest.mark.parametrize("first", [0, 1, 100_000, 199_999])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_body_in_two_parts(resources: ExitStack, framing: str, first: int) -> None:
    """It is read in full; the next request, which arrives with it, stays for gunicorn."""
    content = bytes(range(250)) * 800
    encoded = content if framing == "length" else chunked(content, 7777)
    upload = Upload(resources, (LENGTH if framing == "length" else CHUNKED) + encoded[:first])
    upload.expect()
    assert upload.ended == []
    upload.send(encoded[first:] + LENGTH)
    upload.loop.run(0.01)
    assert upload.body() == content
    leave_source(upload.conn)
    assert upload.conn.parser.unreader.sock is upload.conn.sock
    following = next(upload.conn.parser)
    assert following.body.reader.length == 200_000


@pytest.mark.parametrize(
    ("sent", "in_socket"),
    [
        pytest.param(HEAD + b"\r\n", b"", id="none"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\n123456789", b"", id="with-its-head"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\n123456789GET / HTTP/1.1", b"", id="with-another"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\n123", b"456789", id="length"),
        pytest.param(CHUNKED, b"9\r\n123456789\r\n0\r\n\r\n", id="chunked"),
        pytest.param(CHUNKED + b"9\r\n123456789\r\n0\r\n\r\n", b"", id="chunked-with-its-head"),
    ],
)
def test_body_that_is_there(resources: ExitStack, sent: bytes, in_socket: bytes) -> None:
    """A body that has arrived with its head is not awaited, nor is one that is in the socket."""
    upload = Upload(resources, sent)
    upload.far.sendall(in_socket)
    body = incomplete_body(upload.conn, upload.req)
    assert body is None or body.read_eagerly()
    assert upload.req.body.read() in (b"", b"123456789")


@pytest.mark.parametrize(("size", "has_ended"), [(1000, True), (64 * 1024, False)])
def test_dribbled_body(resources: ExitStack, size: int, has_ended: bool) -> None:
    """Each 64 KiB must arrive within 30 s, however often the client sends a byte."""
    upload = Upload(resources, LENGTH)
    upload.expect()
    began = upload.loop.now
    (arrival,) = upload.arrivals._arrivals
    upload.send(bytes(size - 1))
    upload.send(b"x")
    arrival.check(began + BLOCK_SECONDS - 1)
    assert upload.ended == []
    arrival.check(began + BLOCK_SECONDS)
    assert upload.ended == ([upload.conn] if has_ended else [])
    arrival.check(upload.loop.now + BLOCK_SECONDS)
    assert upload.ended == [upload.conn]
    upload.far.setblocking(True)
    assert upload.far.recv(1) == b""


@pytest.mark.parametrize("end", ["disconnect", "stop", "invalid", "endless"])
def test_body_that_never_arrives(resources: ExitStack, end: str) -> None:
    """The application gets to see it as it is, and decides what to respond."""
    upload = Upload(resources, CHUNKED + b"a\r\n12345")
    upload.expect()
    if end == "disconnect":
        upload.far.shutdown(socket.SHUT_WR)
        upload.loop.run(0.01)
    elif end == "stop":
        upload.arrivals.abort_all()
    elif end == "invalid":
        upload.send(b"67890abc\r\n")
    else:
        upload.send(b"67890\r\n" + b"1\r\nx\r\n" * LIMIT)
    assert upload.ended == [upload.conn]


@pytest.mark.parametrize("has_folder", [True, False])
def test_disk_full(
    resources: ExitStack, mount: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_folder: bool
) -> None:
    """The thread goes on where the loop had to stop, and nothing is lost."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path if has_folder else tmp_path / "none"))
    mount("-t", "tmpfs", "-o", "size=100k", "tmpfs", tmp_path)
    content = bytes(range(250)) * 800
    upload = Upload(resources, LENGTH + content[:10])
    upload.expect()
    upload.send(content[10:50_000])
    assert upload.ended == []
    upload.send(content[50_000:180_000])
    assert upload.ended == [upload.conn]
    upload.far.setblocking(True)
    rest = content[10 + upload.sent_bytes :]
    thread = threading.Thread(target=upload.far.sendall, args=(rest,))
    thread.start()
    assert upload.body() == content
    thread.join()
