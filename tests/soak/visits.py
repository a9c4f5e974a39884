"""What a client may do, good or bad, and which record each visit must leave behind.

Each visit tells upstream by a plan of its own (``X-Simulate``) how to answer it, so clients of all kinds may come at
once. A turn that ends carries a number of its own as its input tokens, by which its record is known.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import closing, suppress

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.soak.visitor import BODY, TIMEOUT_SECONDS, Visitor, Wrong

_CREATE = json.dumps({"type": "response.create", "model": "gpt-5.5", "input": []})
_TERMINAL_EVENT = b"event: response.completed"
_SLOW_BUFFER_BYTES = 16 * 1024
#: A response that its client does not wait for never ends by itself, so there is one way only that it can be recorded.
_SILENT = {"silence_after": 3}


Visit = Callable[[Visitor], None]


def stream(visitor: Visitor) -> None:
    """Turns over SSE, one after another on one connection."""
    with closing(visitor.connect()) as connection:
        for turn in range(visitor.choose.randint(1, 3)):
            number = visitor.number()
            plan = {"events": visitor.choose.randint(5, 60), "interval": 0.01, "usage": _usage(number)}
            try:
                response = visitor.ask(connection, plan)
            except ConnectionError:
                if turn == 0:
                    raise
                return  # A connection that waits may be closed by a worker that stops (RFC 9112 section 9.3.1).
            _expect_whole(response, response.read(), number)
            visitor.owes("sse", "completed", number)


def json_turn(visitor: Visitor) -> None:
    """A turn whose response is one JSON body."""
    number = visitor.number()
    with closing(visitor.connect()) as connection:
        response = visitor.ask(connection, {"usage": _usage(number)}, "/v1/responses/compact")
        body = response.read()
    if response.status != 200 or json.loads(body)["usage"]["input_tokens"] != number:
        raise Wrong(f"{response.status}: {body[:200]!r}")
    visitor.owes("json", "completed", number)


def slow_reader(visitor: Visitor) -> None:
    """A stream of megabytes, read so slowly that its upstream has to wait."""
    number = visitor.number()
    plan = {"events": 80, "event_bytes": 80_000, "usage": _usage(number)}
    with closing(visitor.connect()) as connection:
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)
        response = visitor.ask(connection, plan)
        pieces = []
        while piece := response.read1(65536):
            pieces.append(piece)
            visitor.pause(0, 0.01)
        _expect_whole(response, b"".join(pieces), number)
    visitor.owes("sse", "completed", number)


def stalled_reader(visitor: Visitor) -> None:
    """A long stream of which nothing is read after its beginning, until the client leaves."""
    with closing(visitor.connect()) as connection:
        _expect_begun(visitor.ask(connection, {"events": 100, "event_bytes": 65_536, "silence_after": 90}))
        visitor.owes("sse", "cut")
        visitor.pause(0.5, 1.5)


def leaves_in_mid_stream(visitor: Visitor) -> None:
    """A client that goes while upstream is silent, politely or with a reset."""
    with closing(visitor.connect()) as connection:
        _expect_begun(visitor.ask(connection, _SILENT))
        visitor.owes("sse", "cut")
        visitor.pause(0, 0.2)
        # A connection that will not serve another request belongs to its response alone.
        if connection.sock is not None and visitor.choose.random() < 0.5:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def leaves_before_the_answer(visitor: Visitor) -> None:
    """A client that goes before upstream has said anything. Nothing can be recorded of it."""
    with closing(visitor.connect()) as connection:
        connection.request("POST", "/v1/responses", BODY, visitor.fields({"silence_before_status": True}))
        visitor.pause(0, 0.3)


def half_request(visitor: Visitor) -> None:
    """A client that never says what it wants."""
    head = f"POST /v1/responses HTTP/1.1\r\nHost: ocm\r\nAuthorization: Bearer {visitor.token}\r\n".encode()
    beginnings = [b"", head[:20], head, head + b"Content-Length: 5000\r\n\r\n" + BODY]
    with socket.create_connection(visitor.address, TIMEOUT_SECONDS) as connection:
        connection.sendall(visitor.choose.choice(beginnings))
        visitor.pause(0.2, 1)


def wrong_token(visitor: Visitor) -> None:
    """A stranger."""
    with closing(visitor.connect()) as connection:
        connection.request("POST", "/v1/responses", BODY, {"Authorization": "Bearer sk-ocm-unknown"})
        _expect_status(connection.getresponse(), 401)


def upstream_cuts(visitor: Visitor) -> None:
    """Upstream closes, resets or garbles its response in the middle."""
    fault = visitor.choose.choice(["cut_after", "reset_after", "bad_chunk"])
    with closing(visitor.connect()) as connection:
        # In steps, or a reset would overtake the head.
        response = visitor.ask(connection, {fault: 4, "interval": 0.05})
        _expect_begun(response)
        visitor.owes("sse", "cut")
        try:
            response.read()
        except (OSError, http.client.HTTPException):
            return
    raise Wrong(f"{fault}: the cut looked like an end")


def upstream_refuses(visitor: Visitor) -> None:
    """Upstream answers with an error, which is passed on."""
    status = visitor.choose.choice([400, 429, 500, 503, 529])
    with closing(visitor.connect()) as connection:
        _expect_status(visitor.ask(connection, {"status": status}), status)
    visitor.owes("json", "error")


def upstream_says_nothing(visitor: Visitor) -> None:
    """Upstream closes the connection instead of answering."""
    with closing(visitor.connect()) as connection:
        _expect_status(visitor.ask(connection, {"cut_at": "status"}), 502)


def websocket(visitor: Visitor) -> None:
    """Several turns on one WebSocket."""
    number = visitor.number()
    plan = {"events": visitor.choose.randint(5, 30), "interval": 0.01, "usage": _usage(number)}
    with visitor.websocket(plan) as client:
        for _ in range(visitor.choose.randint(1, 4)):
            try:
                client.send(_CREATE)
                message = client.recv(TIMEOUT_SECONDS)
            except ConnectionClosed as closed:
                if closed.rcvd is None or closed.rcvd.code != 1001:
                    raise
                return  # The worker stops; Codex comes again over another connection.
            while json.loads(message)["type"] != "response.completed":
                message = client.recv(TIMEOUT_SECONDS)
            if json.loads(message)["response"]["usage"]["input_tokens"] != number:
                raise Wrong("another turn's end came over a WebSocket")
            visitor.owes("websocket", "completed", number)
            visitor.pause(0, 0.3)


def websocket_leaves(visitor: Visitor) -> None:
    """A client that drops its WebSocket in the middle of a turn, as Codex does."""
    with visitor.websocket(_SILENT) as client:
        client.send(_CREATE)
        client.recv(TIMEOUT_SECONDS)
        visitor.owes("websocket", "cut")
        client.socket.shutdown(socket.SHUT_WR)
        _hear_out(client)


def websocket_is_cut(visitor: Visitor) -> None:
    """Upstream drops a WebSocket in the middle of a turn."""
    with visitor.websocket({"cut_after": 3}) as client:
        client.send(_CREATE)
        visitor.owes("websocket", "cut")
        _hear_out(client)


#: Each kind of visit, and how often it is chosen.
VISITS: Mapping[Visit, int] = {
    stream: 30,
    json_turn: 12,
    websocket: 20,
    slow_reader: 3,
    stalled_reader: 2,
    leaves_in_mid_stream: 8,
    leaves_before_the_answer: 4,
    half_request: 4,
    wrong_token: 2,
    upstream_cuts: 6,
    upstream_refuses: 4,
    upstream_says_nothing: 2,
    websocket_leaves: 4,
    websocket_is_cut: 3,
}


def _usage(number: int) -> dict[str, int]:
    return {"input_tokens": number, "cached_tokens": 0, "output_tokens": 1, "reasoning_tokens": 0}


def _hear_out(client: ClientConnection) -> None:
    """Read until the service ends the connection."""
    with suppress(ConnectionClosed):
        while True:
            client.recv(TIMEOUT_SECONDS)


def _expect_whole(response: http.client.HTTPResponse, body: bytes, number: int) -> None:
    """Check that a stream came to its end, and that it is the one that was asked for."""
    terminal = body[body.rfind(_TERMINAL_EVENT) :] if response.status == 200 else b""
    if not terminal.startswith(_TERMINAL_EVENT) or f'"input_tokens":{number},'.encode() not in terminal:
        raise Wrong(f"{response.status}: {body[-200:]!r}")


def _expect_begun(response: http.client.HTTPResponse) -> None:
    """Wait for the first octet of a good response."""
    if response.status != 200 or not response.read1(1):
        raise Wrong(f"{response.status} instead of a stream")


def _expect_status(response: http.client.HTTPResponse, status: int) -> None:
    body = response.read()
    if response.status != status:
        raise Wrong(f"{response.status} instead of {status}: {body[:200]!r}")
