"""What a client may do, good or bad, and the records that each action must produce.

Each action sets upstream's answer with its own plan (``X-Simulate``), so that different clients can run
concurrently. A completed turn carries a unique number as its input tokens, which identifies its record.
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

from tests.soak.client import BODY, TIMEOUT_SECONDS, SoakClient, UnexpectedResponse

_CREATE = json.dumps({"type": "response.create", "model": "gpt-5.5", "input": []})
_TERMINAL_EVENT = b"event: response.completed"
_SLOW_BUFFER_BYTES = 16 * 1024
# A response that its client abandons must never end first, so that its recorded status is predictable.
_SILENT = {"silence_after": 3}


Action = Callable[[SoakClient], None]


def stream(client: SoakClient) -> None:
    """Turns over SSE, one after another on one connection."""
    with closing(client.connect()) as connection:
        for turn in range(client.choose.randint(1, 3)):
            number = client.number()
            plan = {"events": client.choose.randint(5, 60), "interval": 0.01, "usage": _usage(number)}
            try:
                response = client.request(connection, plan)
            except ConnectionError:
                if turn == 0:
                    raise
                return  # A stopping worker may close an idle connection (RFC 9112 section 9.3.1).
            _expect_whole(response, response.read(), number)
            client.expect_record("sse", "completed", number)


def json_turn(client: SoakClient) -> None:
    """A turn whose response is one JSON body."""
    number = client.number()
    with closing(client.connect()) as connection:
        response = client.request(connection, {"usage": _usage(number)}, "/v1/responses/compact")
        body = response.read()
    if response.status != 200 or json.loads(body)["usage"]["input_tokens"] != number:
        raise UnexpectedResponse(f"{response.status}: {body[:200]!r}")
    client.expect_record("json", "completed", number)


def slow_reader(client: SoakClient) -> None:
    """A stream of megabytes, read so slowly that upstream has to wait."""
    number = client.number()
    plan = {"events": 80, "event_bytes": 80_000, "usage": _usage(number)}
    with closing(client.connect()) as connection:
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)
        response = client.request(connection, plan)
        pieces = []
        while piece := response.read1(65536):
            pieces.append(piece)
            client.pause(0, 0.01)
        _expect_whole(response, b"".join(pieces), number)
    client.expect_record("sse", "completed", number)


def stalled_reader(client: SoakClient) -> None:
    """A long stream of which nothing is read after its beginning, until the client disconnects."""
    with closing(client.connect()) as connection:
        _expect_begun(client.request(connection, {"events": 100, "event_bytes": 65_536, "silence_after": 90}))
        client.expect_record("sse", "cut")
        client.pause(0.5, 1.5)


def disconnects_in_mid_stream(client: SoakClient) -> None:
    """A client that disconnects while upstream is silent, cleanly or with a reset."""
    with closing(client.connect()) as connection:
        _expect_begun(client.request(connection, _SILENT))
        client.expect_record("sse", "cut")
        client.pause(0, 0.2)
        # The socket of a connection that is not kept alive belongs to the response.
        if connection.sock is not None and client.choose.random() < 0.5:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def disconnects_before_response(client: SoakClient) -> None:
    """A client that disconnects before upstream has responded, so that its turn may be recorded or not."""
    with closing(client.connect()) as connection:
        connection.request("POST", "/v1/responses", BODY, client.fields({"silence_before_status": True}))
        client.pause(0, 0.3)


def half_request(client: SoakClient) -> None:
    """A client that never completes its request."""
    head = f"POST /v1/responses HTTP/1.1\r\nHost: ocm\r\nAuthorization: Bearer {client.token}\r\n".encode()
    beginnings = [b"", head[:20], head, head + b"Content-Length: 5000\r\n\r\n" + BODY]
    with socket.create_connection(client.address, TIMEOUT_SECONDS) as connection:
        connection.sendall(client.choose.choice(beginnings))
        client.pause(0.2, 1)


def invalid_token(client: SoakClient) -> None:
    """A client with an invalid token."""
    with closing(client.connect()) as connection:
        connection.request("POST", "/v1/responses", BODY, {"Authorization": "Bearer sk-ocm-unknown"})
        _expect_status(connection.getresponse(), 401)


def upstream_cuts(client: SoakClient) -> None:
    """Upstream closes, resets or garbles its response in the middle."""
    fault = client.choose.choice(["cut_after", "reset_after", "bad_chunk"])
    with closing(client.connect()) as connection:
        # Slowly, or a reset would overtake the head.
        response = client.request(connection, {fault: 4, "interval": 0.05})
        _expect_begun(response)
        client.expect_record("sse", "cut")
        try:
            response.read()
        except (OSError, http.client.HTTPException):
            return
    raise UnexpectedResponse(f"{fault}: the truncated response looked complete")


def upstream_returns_error(client: SoakClient) -> None:
    """Upstream answers with an error, which is forwarded."""
    status = client.choose.choice([400, 429, 500, 503, 529])
    with closing(client.connect()) as connection:
        _expect_status(client.request(connection, {"status": status}), status)
    client.expect_record("json", "error")


def upstream_sends_no_response(client: SoakClient) -> None:
    """Upstream closes the connection instead of answering."""
    with closing(client.connect()) as connection:
        _expect_status(client.request(connection, {"cut_at": "status"}), 502)


def websocket(client: SoakClient) -> None:
    """Several turns on one WebSocket."""
    number = client.number()
    plan = {"events": client.choose.randint(5, 30), "interval": 0.01, "usage": _usage(number)}
    with client.websocket(plan) as websocket_client:
        for _ in range(client.choose.randint(1, 4)):
            try:
                websocket_client.send(_CREATE)
                message = websocket_client.recv(TIMEOUT_SECONDS)
            except ConnectionClosed as closed:
                if closed.rcvd is None or closed.rcvd.code != 1001:
                    raise
                return  # The worker is stopping; Codex would reconnect.
            while json.loads(message)["type"] != "response.completed":
                message = websocket_client.recv(TIMEOUT_SECONDS)
            if json.loads(message)["response"]["usage"]["input_tokens"] != number:
                raise UnexpectedResponse("the end of another turn arrived on a WebSocket")
            client.expect_record("websocket", "completed", number)
            client.pause(0, 0.3)


def websocket_disconnects(client: SoakClient) -> None:
    """A client that drops its WebSocket in the middle of a turn, as Codex does."""
    with client.websocket(_SILENT) as websocket_client:
        websocket_client.send(_CREATE)
        websocket_client.recv(TIMEOUT_SECONDS)
        client.expect_record("websocket", "cut")
        websocket_client.socket.shutdown(socket.SHUT_WR)
        _drain(websocket_client)


def upstream_drops_websocket(client: SoakClient) -> None:
    """Upstream drops a WebSocket in the middle of a turn."""
    with client.websocket({"cut_after": 3}) as websocket_client:
        websocket_client.send(_CREATE)
        client.expect_record("websocket", "cut")
        _drain(websocket_client)


#: The actions, with their weights.
ACTIONS: Mapping[Action, int] = {
    stream: 30,
    json_turn: 12,
    websocket: 20,
    slow_reader: 3,
    stalled_reader: 2,
    disconnects_in_mid_stream: 8,
    disconnects_before_response: 4,
    half_request: 4,
    invalid_token: 2,
    upstream_cuts: 6,
    upstream_returns_error: 4,
    upstream_sends_no_response: 2,
    websocket_disconnects: 4,
    upstream_drops_websocket: 3,
}


def _usage(number: int) -> dict[str, int]:
    return {"input_tokens": number, "cached_tokens": 0, "output_tokens": 1, "reasoning_tokens": 0}


def _drain(websocket_client: ClientConnection) -> None:
    """Read until the service ends the connection."""
    with suppress(ConnectionClosed):
        while True:
            websocket_client.recv(TIMEOUT_SECONDS)


def _expect_whole(response: http.client.HTTPResponse, body: bytes, number: int) -> None:
    """Check that a stream is complete, and belongs to the request."""
    terminal = body[body.rfind(_TERMINAL_EVENT) :] if response.status == 200 else b""
    if not terminal.startswith(_TERMINAL_EVENT) or f'"input_tokens":{number},'.encode() not in terminal:
        raise UnexpectedResponse(f"{response.status}: {body[-200:]!r}")


def _expect_begun(response: http.client.HTTPResponse) -> None:
    """Wait for the first byte of a successful response."""
    if response.status != 200 or not response.read1(1):
        raise UnexpectedResponse(f"{response.status} instead of a stream")


def _expect_status(response: http.client.HTTPResponse, status: int) -> None:
    body = response.read()
    if response.status != status:
        raise UnexpectedResponse(f"{response.status} instead of {status}: {body[:200]!r}")
