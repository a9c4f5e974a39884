"""The cost of observing a WebSocket: ``python -m benchmarks.frames``.

CPU time per message, by size and compression, for messages from the server (one per read, as deltas arrive) and from
the client (one ``response.create``, until it has been read and forwarded).
"""

from __future__ import annotations

import os
import time
import zlib

from benchmarks import wire
from benchmarks.observer import READ_SIZE
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.frames import server_text
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.session import WebSocketSession

ROUNDS = 5
COMPRESSIONS = {
    "none": None,
    "takeover": DeflateParameters(),
    "no takeover": DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True),
}
_RSV1 = 0x40


def message(type_: str, size: int) -> bytes:
    """Return a message of exactly ``size`` bytes of hexadecimal text, which compresses to just over half."""
    head, tail = f'{{"type":"{type_}","model":"gpt-5.5","delta":"'.encode(), b'"}'
    room = size - len(head) - len(tail)
    return head + os.urandom(room // 2).hex().encode().ljust(room) + tail


def frame(text: bytes, deflate: DeflateParameters | None, *, masked: bool) -> bytes:
    """Return a frame with one message, without references to earlier messages."""
    payload = text
    if deflate is not None:
        stream = zlib.compressobj(wbits=-15)
        payload = (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
    data = server_text(payload)
    if deflate is not None:
        data = bytes([data[0] | _RSV1]) + data[1:]
    return wire.masked(data, payload) if masked else data


def from_server(data: bytes, deflate: DeflateParameters | None, repeat: int) -> float:
    """Return the CPU time of ``repeat`` messages that do not end a turn."""
    session: WebSocketSession[object] = WebSocketSession(deflate, lambda model: model)
    reads = [data[start : start + READ_SIZE] for start in range(0, len(data), READ_SIZE)]
    start = time.process_time()
    for _ in range(repeat):
        for read in reads:
            session.from_server(read)
    return time.process_time() - start


def from_client(data: bytes, deflate: DeflateParameters | None, repeat: int) -> float:
    """Return the CPU time of ``repeat`` messages that request a turn."""
    reads = [data[start : start + READ_SIZE] for start in range(0, len(data), READ_SIZE)]
    spent = 0.0
    for _ in range(repeat):
        session: WebSocketSession[object] = WebSocketSession(deflate, lambda model: model)
        start = time.process_time()
        for read in reads:
            for item in session.from_client(read):
                if isinstance(item, HeldMessage):
                    item.read()
                    session.forward(object())
        spent += time.process_time() - start
    return spent


def main() -> None:
    """Print the table."""
    print(f"{'from':>8} {'message':>9} {'compression':>12} {'on the wire':>12} {'per message':>13} {'per byte':>11}")
    rows = (
        (
            "server",
            from_server,
            "response.output_text.delta",
            ((200, 20_000), (1024, 10_000), (65536, 300), (8 << 20, 3)),
        ),
        ("client", from_client, "response.create", ((1024, 5_000), (40_000, 500), (5 << 20, 3))),
    )
    for side, measure, type_, sizes in rows:
        for size, repeat in sizes:
            for name, deflate in COMPRESSIONS.items():
                data = frame(message(type_, size), deflate, masked=side == "client")
                spent = min(measure(data, deflate, repeat) for _ in range(ROUNDS)) / repeat
                print(
                    f"{side:>8} {size:>9} {name:>12} {len(data):>12} {spent * 1e6:>10.2f} us"
                    f" {spent / size * 1e9:>8.3f} ns"
                )


if __name__ == "__main__":
    main()
