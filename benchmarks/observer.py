"""The cost of observing streams: ``python -m benchmarks.observer``.

For events of several sizes: the observer's CPU time per event and per byte, compared with a bare loop that receives and
sends the same bytes over socket pairs in reads of the same size, the minimum for any relay. Without TLS; with it the
relay does more and the observer's share is smaller.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable

from ocm_wsgi.protocol.responses.sse_observer import SseObserver

READ_SIZE = 64 * 1024
ROUNDS = 5


def delta_event(size: int, *, named_first: bool = True) -> bytes:
    """Return a ``response.output_text.delta`` of exactly ``size`` bytes, which does not end a turn.

    :param named_first: whether its type is its first member, as OpenAI sends it.
    """
    type_, item = '"type":"response.output_text.delta"', '"item_id":"msg_1","output_index":0'
    members = f"{type_},{item}" if named_first else f"{item},{type_}"
    frame = f'event: response.output_text.delta\ndata: {{{members},"delta":"%s"}}\n\n'
    text = json.dumps('some text, a "quoted" word and a line end\n')[1:-1] * (size // 40 + 1)
    length = size - len(frame) + 2
    return (frame % text[:length].rstrip("\\").ljust(length)).encode()


def reads_of(event: bytes) -> list[bytes]:
    """Return an event as it arrives: in one read or several."""
    return [event[start : start + READ_SIZE] for start in range(0, len(event), READ_SIZE)]


def observing(reads: list[bytes], repeat: int) -> float:
    observer = SseObserver()
    feed = observer.feed
    start = time.process_time()
    for _ in range(repeat):
        for data in reads:
            feed(data)
    return time.process_time() - start


def relaying(reads: list[bytes], repeat: int) -> float:
    """Return the CPU time of one receive and one send per read, without filling and draining the socket pairs."""
    upstream, source = socket.socketpair()
    client, sink = socket.socketpair()
    buffer = bytearray(READ_SIZE)
    spent = 0.0
    with upstream, source, client, sink:
        for end in (source, client):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * READ_SIZE)
        for _ in range(repeat):
            for data in reads:
                source.sendall(data)
                start = time.process_time()
                received = upstream.recv(READ_SIZE)
                client.sendall(received)
                spent += time.process_time() - start
                unread = len(received)
                while unread:
                    unread -= sink.recv_into(buffer, unread)
    return spent


def best(measure: Callable[[list[bytes], int], float], reads: list[bytes], repeat: int) -> float:
    return min(measure(reads, repeat) for _ in range(ROUNDS)) / repeat


def main() -> None:
    """Print the table."""
    print(f"{'event':>16} {'observe/event':>14} {'per byte':>10} {'relay/event':>12} {'share':>7}")
    for size, repeat, named_first in (
        (158, 20_000, True),
        (1024, 20_000, True),
        (65536, 500, True),
        (8 << 20, 5, True),
        (8 << 20, 5, False),
    ):
        reads = reads_of(delta_event(size, named_first=named_first))
        observe, relay = best(observing, reads, repeat), best(relaying, reads, repeat)
        name = f"{size}" + ("" if named_first else ", type 2nd")
        print(
            f"{name:>16} {observe * 1e6:>11.2f} us {observe / size * 1e9:>7.3f} ns"
            f" {relay * 1e6:>9.2f} us {observe / (observe + relay):>7.1%}"
        )


if __name__ == "__main__":
    main()
