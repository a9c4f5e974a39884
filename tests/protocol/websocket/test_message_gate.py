"""Messages of a WebSocket client: each is held, then forwarded octet for octet or dropped completely."""

from __future__ import annotations

import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from ocm_wsgi.errors import MessageRejected
from ocm_wsgi.protocol.responses.request import RequestFacts
from ocm_wsgi.protocol.websocket.client_messages import ClientMessage, read_message
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage, MessageGate, Violation
from tests.websocket_peers import DEFLATES, SPLITS, Peer, Split

CREATE = b'{"type":"response.create","model":"gpt-5.5","service_tier":"priority","stream":true,"input":[]}'
FACTS = RequestFacts("gpt-5.5", "priority")
TURN = ClientMessage("turn", FACTS)
REFUSED = "refused"

OTHER = b'{"type":"response.processed"}'
OTHER_ASK = ClientMessage("control", RequestFacts())

# A message, and what it asks for.
ASKS = [
    pytest.param(CREATE, TURN, id="create"),
    pytest.param(
        b'{"type":"response.create","model":"m","generate":false,"previous_response_id":"resp_1","stream_id":"a"}',
        ClientMessage("turn", RequestFacts("m"), "a", "resp_1", is_prewarm=True),
        id="prewarm",
    ),
    pytest.param(b'{"model":"m","type":"response.create"}', ClientMessage("turn", RequestFacts("m")), id="type-later"),
    pytest.param(
        b'{"type":"response.cre\\u0061te","model":"m"}', ClientMessage("turn", RequestFacts("m")), id="escaped"
    ),
    pytest.param(
        b'{"type":"response.steer","previous_response_id":"resp_1","input":"x"}',
        ClientMessage("steer", RequestFacts(), None, "resp_1"),
        id="steer",
    ),
    pytest.param(
        b'{"type":"response.interrupt","response_id":"resp_1","mode":"discard_partial_items"}',
        ClientMessage("control", RequestFacts(), None, "resp_1"),
        id="interrupt",
    ),
    pytest.param(
        b'{"type":"response.inject","response_id":"resp_1","input":[]}',
        ClientMessage("input", RequestFacts(), None, "resp_1"),
        id="inject",
    ),
    pytest.param(b'{"type":"response.later"}', REFUSED, id="unknown-type"),
    pytest.param(b'{"type":["response.create"]}', REFUSED, id="type-is-no-text"),
    pytest.param(b'{"x":1}', REFUSED, id="no-type"),
    pytest.param(b'{"type":"response.create","type":"response.interrupt"}', REFUSED, id="two-types"),
    pytest.param(b"no JSON", REFUSED, id="no-json"),
    pytest.param(b"[]", REFUSED, id="no-object"),
    pytest.param(b"", REFUSED, id="empty"),
]


def ask(held: HeldMessage) -> ClientMessage | str:
    """Return what a message asks for, or that it is refused."""
    try:
        return held.read()
    except MessageRejected:
        return REFUSED


def large(model: str) -> bytes:
    """Return a message of 5 MiB with its model at the end."""
    return json.dumps(
        {"type": "response.create", "input": random.Random(1).randbytes(5 << 19).hex(), "model": model}
    ).encode()


def decide_all(
    gate: MessageGate, reads: list[bytes], *, dropped: frozenset[int] = frozenset()
) -> tuple[bytes, list[object]]:
    """Return what goes upstream if all messages but some are forwarded, and what the messages ask for."""
    upstream = b""
    asks: list[object] = []
    for data in reads:
        sendable = gate.feed(data)
        while sendable:
            item = sendable.pop(0)
            if isinstance(item, bytes):
                upstream += item
                continue
            assert sendable == []
            asks.append(ask(item))
            sendable = gate.drop() if len(asks) - 1 in dropped else gate.forward()
    return upstream, asks


@pytest.mark.parametrize("deflate", [None, DeflateParameters(), DeflateParameters(client_no_context_takeover=True)])
@pytest.mark.parametrize(("text", "asks"), ASKS)
def test_read_returns_what_a_message_asks_for(
    deflate: DeflateParameters | None, text: bytes, asks: ClientMessage | str
) -> None:
    """Model, tier and kind of turn are read; a message that asks for something unknown is refused."""
    data = Peer(deflate, is_client=True).text(text)
    for reads in ([data], [data[at : at + 1] for at in range(len(data))]):
        assert decide_all(MessageGate(deflate), reads) == (data, [asks])


@given(
    st.lists(st.sampled_from([CREATE, CREATE + b" " * 300, OTHER]), max_size=6),
    DEFLATES,
    SPLITS,
    st.sets(st.integers(0, 5)),
    st.data(),
)
def test_feed_forwards_and_drops_complete_messages(
    texts: list[bytes], deflate: DeflateParameters | None, split: Split, dropped: set[int], data: st.DataObject
) -> None:
    """In any split of a stream, exactly the octets of the forwarded messages go upstream."""
    context_takeover = deflate is not None and not deflate.client_no_context_takeover
    peer = Peer(deflate, is_client=True)
    stream = expected = b""
    is_closed = False
    for number, text in enumerate(texts):
        cut = data.draw(st.integers(0, len(text)))
        frames = b"".join(peer.fragments([text[:cut], text[cut:]]))
        ping = peer.frame(Opcode.PING, b"ping")
        stream += ping + frames
        expected += b"" if is_closed else ping + (b"" if number in dropped else frames)
        is_closed = is_closed or (context_takeover and number in dropped)
    gate = MessageGate(deflate)
    upstream, asks = decide_all(gate, split.of(stream), dropped=frozenset(dropped))
    assert upstream == expected
    assert gate.is_closed is is_closed
    expected_asks = [OTHER_ASK if text == OTHER else TURN for text in texts]
    assert asks == expected_asks[: len(asks)]


def test_feed_holds_a_message_until_it_is_admitted() -> None:
    """No part of a message is forwarded before it is complete, and nothing after it before its admission."""
    peer = Peer(is_client=True)
    first, second = peer.text(CREATE), peer.text(OTHER)
    gate = MessageGate(None)
    for at in range(len(first) - 1):
        assert gate.feed(first[at : at + 1]) == []
    (held,) = gate.feed(first[-1:] + second[:3])
    assert isinstance(held, HeldMessage)
    assert gate.feed(second[3:]) == []
    octets, following = gate.forward()
    assert octets == first
    assert isinstance(following, HeldMessage)
    assert gate.forward() == [second]


def test_feed_forwards_control_frames_immediately() -> None:
    """A ping within a fragmented message is forwarded before the message's end."""
    peer = Peer(is_client=True)
    first, second = peer.fragments([CREATE[:20], CREATE[20:]])
    ping = peer.frame(Opcode.PING, b"now")
    gate = MessageGate(None)
    assert b"".join(item for item in gate.feed(first + ping) if isinstance(item, bytes)) == ping
    (held,) = gate.feed(second)
    assert isinstance(held, HeldMessage)
    assert held.octets == first + second
    assert held.read() == TURN


def test_feed_forwards_nothing_after_a_close_frame() -> None:
    """A Close frame is forwarded, but nothing after it, not even the rest of a message."""
    peer = Peer(is_client=True)
    first, second = peer.fragments([CREATE[:20], CREATE[20:]])
    close = peer.frame(Opcode.CLOSE, b"\x03\xe8")
    gate = MessageGate(None)
    assert b"".join(item for item in gate.feed(first + close + second) if isinstance(item, bytes)) == close
    assert gate.is_closed
    assert gate.feed(peer.text(CREATE)) == []


@pytest.mark.parametrize(
    ("data", "close_code"),
    [
        pytest.param(b"\x81\x02{}", 1002, id="not-masked"),
        pytest.param(b"\xc1\x80abcd", 1002, id="compressed-without-having-been-negotiated"),
        pytest.param(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"abcd" + bytes(5000), 1009, id="too-long"),
        pytest.param(b"\x02\x80abcd" + b"\x00\x80abcd" * 100, 1009, id="too-many-fragments"),
    ],
)
def test_feed_stops_at_a_violation(data: bytes, close_code: int) -> None:
    """After a protocol violation or a message that is too long, nothing more is forwarded."""
    gate = MessageGate(None, limit=4096)
    assert gate.feed(data) == []
    assert isinstance(gate.violation, Violation)
    assert gate.violation.close_code == close_code
    assert gate.feed(Peer(is_client=True).text(CREATE)) == []


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_feed_accepts_any_octets(reads: list[bytes]) -> None:
    """No octets from a client raise an exception."""
    decide_all(MessageGate(DeflateParameters()), reads)


@pytest.mark.parametrize("deflate", [None, DeflateParameters(), DeflateParameters(client_no_context_takeover=True)])
def test_read_large_messages(deflate: DeflateParameters | None) -> None:
    """The model of a message of megabytes is found at any position, and the next message is read, too."""
    peer = Peer(deflate, is_client=True)
    data = peer.text(large("gpt-5.5")) + peer.text(CREATE)
    assert decide_all(MessageGate(deflate), [data]) == (
        data,
        [ClientMessage("turn", RequestFacts("gpt-5.5")), TURN],
    )


@pytest.mark.parametrize("deflate", [None, DeflateParameters(client_no_context_takeover=True)])
def test_read_gives_up_on_an_intricate_message(deflate: DeflateParameters | None) -> None:
    """A message that takes too long to scan is refused, and the next one is read."""
    peer = Peer(deflate, is_client=True)
    padding = random.Random(1).randbytes(1 << 19).hex().encode()
    data = peer.text(b'{"x":"' + padding + b'","y":' + b"[" * (3 << 20)) + peer.text(CREATE)
    assert decide_all(MessageGate(deflate), [data])[1] == [REFUSED, TURN]


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        pytest.param(CREATE + b" " * ((1 << 20) - len(CREATE)), TURN, id="up-to-a-mebibyte"),
        pytest.param(CREATE[:-1] + b',"x":"' + b"a" * (1 << 20) + b'"}', REFUSED, id="beyond"),
        pytest.param(
            CREATE[:-1] + b',"x":"' + (random.Random(1).randbytes(1 << 14).hex().encode() * 100)[: 3 << 20] + b'"}',
            TURN,
            id="beyond-but-not-a-hundredfold",
        ),
        pytest.param(CREATE[:-1] + b',"x":"' + b"a" * (130 << 20) + b'"}', REFUSED, id="bomb"),
    ],
)
@pytest.mark.parametrize("takeover", [True, False])
def test_read_limits_decompression(text: bytes, asks: object, *, takeover: bool) -> None:
    """A message that decompresses to more than a hundredfold is refused after a mebibyte."""
    deflate = DeflateParameters(client_no_context_takeover=not takeover)
    data = Peer(deflate, is_client=True).text(text)
    gate = MessageGate(deflate)
    (held,) = gate.feed(data)
    assert isinstance(held, HeldMessage)
    assert ask(held) == asks
    gate.drop()
    assert gate.is_closed is takeover


def test_read_stops_when_its_time_is_over() -> None:
    """A message that takes too long to read is refused, however its octets are spread."""
    deflate = DeflateParameters(client_no_context_takeover=True)
    times = iter(range(100))
    (held,) = MessageGate(deflate).feed(Peer(deflate, is_client=True).text(large("m")))
    assert isinstance(held, HeldMessage)
    with pytest.raises(MessageRejected, match="too long"):
        held.read(lambda: next(times))
    assert next(times) < 10


@pytest.mark.parametrize("size", [10, 2 << 20])
def test_read_refuses_a_broken_end(size: int) -> None:
    """A message that cannot be fully decompressed is refused, regardless of its beginning."""
    text = json.dumps({"type": "response.processed", "y": random.Random(1).randbytes(size).hex()}).encode()
    stream = zlib.compressobj(wbits=-15)
    data = stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH) + b"\xff\xff\xff"
    frame = Peer(is_client=True).text(data)
    gate = MessageGate(DeflateParameters())
    (held,) = gate.feed(bytes([frame[0] | 0x40]) + frame[1:])
    assert isinstance(held, HeldMessage)
    assert ask(held) == REFUSED


@pytest.mark.parametrize("deflate", [None, DeflateParameters(client_no_context_takeover=True)])
def test_held_bytes(deflate: DeflateParameters | None) -> None:
    """Octets count while they are held: of an unfinished message, of one that is undecided, and of what follows it."""
    peer = Peer(deflate, is_client=True)
    data, more = peer.text(CREATE), peer.text(CREATE)
    gate = MessageGate(deflate)
    gate.feed(data[:-1])
    assert len(data) - 1 <= gate.held_bytes <= len(data) + 256
    gate.feed(data[-1:] + more[:1])
    gate.feed(more[1:])
    assert gate.held_bytes == len(data) + len(more)
    gate.drop()
    assert gate.held_bytes == len(more)
    gate.forward()
    assert gate.held_bytes == 0


def test_forward_or_drop_without_a_message() -> None:
    """Forwarding or dropping without a held message is an error of the caller."""
    for decision in (MessageGate(None).forward, MessageGate(None).drop):
        with pytest.raises(RuntimeError):
            decision()


def test_read_message_reads_blocks_of_any_size() -> None:
    """The size of the blocks does not matter."""
    assert read_message(CREATE[at : at + 1] for at in range(len(CREATE))) == TURN
