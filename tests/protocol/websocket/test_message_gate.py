"""What a client says over a WebSocket: each message waits, passes octet for octet, or is left out whole."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from ocm_wsgi.protocol.responses.request import RequestFacts, ResponseCreate, response_create
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage, MessageGate, Violation
from tests.websocket_peers import DEFLATES, SPLITS, Peer, Split

CREATE = b'{"type":"response.create","model":"gpt-5.5","service_tier":"priority","stream":true,"input":[]}'
FACTS = RequestFacts("gpt-5.5", "priority")
UNREADABLE = ResponseCreate(RequestFacts())

# A message, and what it asks for; None for what is no turn.
ASKED = [
    pytest.param(CREATE, ResponseCreate(FACTS), id="create"),
    pytest.param(
        b'{"type":"response.create","model":"m","generate":false,"previous_response_id":"resp_1"}',
        ResponseCreate(RequestFacts("m"), is_prewarm=True),
        id="prewarm",
    ),
    pytest.param(b'{"model":"m","type":"response.create"}', ResponseCreate(RequestFacts("m")), id="type-later"),
    pytest.param(b'{"type":"response.cre\\u0061te","model":"m"}', ResponseCreate(RequestFacts("m")), id="escaped"),
    pytest.param(b'{"type":"response.processed","response_id":"resp_1"}', None, id="another-type"),
    pytest.param(b'{"x":1}', None, id="no-type"),
    pytest.param(b'{"type":"response.create","type":"x"}', UNREADABLE, id="two-types"),
    pytest.param(b"no JSON", UNREADABLE, id="no-json"),
    pytest.param(b"[]", UNREADABLE, id="no-object"),
    pytest.param(b"", UNREADABLE, id="empty"),
]


def large(model: str) -> bytes:
    """A message of 5 MiB, with its model at the end."""
    return json.dumps({"type": "response.create", "input": "abcde" * (1 << 20), "model": model}).encode()


def passed(gate: MessageGate, reads: list[bytes], *, out: frozenset[int] = frozenset()) -> tuple[bytes, list[object]]:
    """What goes upstream when all messages but some pass, and what the messages asked for."""
    upstream = b""
    asked: list[object] = []
    for data in reads:
        going = gate.feed(data)
        while going:
            item = going.pop(0)
            if isinstance(item, bytes):
                upstream += item
                continue
            assert going == []
            asked.append(item.read())
            going = gate.drop() if len(asked) - 1 in out else gate.forward()
    return upstream, asked


@pytest.mark.parametrize("deflate", [None, DeflateParameters(), DeflateParameters(client_no_context_takeover=True)])
@pytest.mark.parametrize(("text", "asked"), ASKED)
def test_read_says_what_a_message_asks_for(
    deflate: DeflateParameters | None, text: bytes, asked: ResponseCreate | None
) -> None:
    """Model, tier and the kind of turn are read; what cannot be read counts as a turn of an unknown model."""
    data = Peer(deflate, is_client=True).text(text)
    for reads in ([data], [data[at : at + 1] for at in range(len(data))]):
        assert passed(MessageGate(deflate), reads) == (data, [asked])


@given(
    st.lists(st.sampled_from([CREATE, CREATE + b" " * 300, b'{"type":"x"}']), max_size=6),
    DEFLATES,
    SPLITS,
    st.sets(st.integers(0, 5)),
    st.data(),
)
def test_feed_passes_and_leaves_out_whole_messages(
    said: list[bytes], deflate: DeflateParameters | None, split: Split, out: set[int], data: st.DataObject
) -> None:
    """However a stream is cut up: what passes is the octets of the messages that pass, and nothing of the others."""
    context_takeover = deflate is not None and not deflate.client_no_context_takeover
    peer = Peer(deflate, is_client=True)
    stream = expected = b""
    is_closed = False
    for number, text in enumerate(said):
        cut = data.draw(st.integers(0, len(text)))
        frames = b"".join(peer.fragments([text[:cut], text[cut:]]))
        ping = peer.frame(Opcode.PING, b"ping")
        stream += ping + frames
        expected += b"" if is_closed else ping + (b"" if number in out else frames)
        is_closed = is_closed or (context_takeover and number in out)
    gate = MessageGate(deflate)
    upstream, asked = passed(gate, split.of(stream), out=frozenset(out))
    assert upstream == expected
    assert gate.is_closed is is_closed
    expected_asks = [None if b'"x"' in text else ResponseCreate(FACTS) for text in said]
    assert asked == expected_asks[: len(asked)]


def test_feed_holds_all_of_a_message_until_it_is_decided() -> None:
    """Nothing of a message goes on before it is whole, nothing behind it before it is decided about."""
    peer = Peer(is_client=True)
    first, second = peer.text(CREATE), peer.text(b'{"type":"x"}')
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


def test_feed_passes_control_frames_at_once() -> None:
    """A ping within a fragmented message does not wait for its end."""
    peer = Peer(is_client=True)
    first, second = peer.fragments([CREATE[:20], CREATE[20:]])
    ping = peer.frame(Opcode.PING, b"now")
    gate = MessageGate(None)
    assert b"".join(item for item in gate.feed(first + ping) if isinstance(item, bytes)) == ping
    (held,) = gate.feed(second)
    assert isinstance(held, HeldMessage)
    assert held.octets == first + second
    assert held.read() == ResponseCreate(FACTS)


def test_feed_passes_nothing_behind_a_close_frame() -> None:
    """A Close frame goes on, and what comes behind it does not: not even the rest of a message."""
    peer = Peer(is_client=True)
    first, second = peer.fragments([CREATE[:20], CREATE[20:]])
    close = peer.frame(Opcode.CLOSE, b"\x03\xe8")
    gate = MessageGate(None)
    assert b"".join(item for item in gate.feed(first + close + second) if isinstance(item, bytes)) == close
    assert gate.is_closed
    assert gate.feed(peer.text(CREATE)) == []


@pytest.mark.parametrize(
    ("data", "stop"),
    [
        pytest.param(b"\x81\x02{}", 1002, id="not-masked"),
        pytest.param(b"\xc1\x80abcd", 1002, id="compressed-without-having-been-negotiated"),
        pytest.param(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"abcd" + bytes(5000), 1009, id="too-long"),
        pytest.param(b"\x02\x80abcd" + b"\x00\x80abcd" * 100, 1009, id="too-many-fragments"),
    ],
)
def test_feed_stops_for_good(data: bytes, stop: int) -> None:
    """A client that breaks the protocol, or says too much at once, gets no octet through any more."""
    gate = MessageGate(None, limit=4096)
    assert gate.feed(data) == []
    assert isinstance(gate.violation, Violation)
    assert gate.violation.close_code == stop
    assert gate.feed(Peer(is_client=True).text(CREATE)) == []


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_feed_takes_any_octets(reads: list[bytes]) -> None:
    """Nothing that a client sends raises."""
    passed(MessageGate(DeflateParameters()), reads)


@pytest.mark.parametrize("deflate", [None, DeflateParameters(), DeflateParameters(client_no_context_takeover=True)])
def test_read_understands_large_messages(deflate: DeflateParameters | None) -> None:
    """The model of a message of megabytes is found wherever it stands, and the next message is read, too."""
    peer = Peer(deflate, is_client=True)
    data = peer.text(large("gpt-5.5")) + peer.text(CREATE)
    assert passed(MessageGate(deflate), [data]) == (
        data,
        [ResponseCreate(RequestFacts("gpt-5.5")), ResponseCreate(FACTS)],
    )


def test_read_goes_on_behind_a_message_that_it_gave_up() -> None:
    """A message made to take for ever is given up, yet decompressed to its end, and the next one is read."""
    deflate = DeflateParameters()
    peer = Peer(deflate, is_client=True)
    data = peer.text(b"[" * (3 << 20)) + peer.text(CREATE)
    assert passed(MessageGate(deflate), [data])[1] == [UNREADABLE, ResponseCreate(FACTS)]


def test_read_bounds_a_bomb() -> None:
    """A message that decompresses to more than anybody may say is not read, nor is what comes behind it."""
    deflate = DeflateParameters()
    peer = Peer(deflate, is_client=True)
    data = peer.text(b'{"model":"m","x":"' + b"a" * (130 << 20) + b'"}') + peer.text(CREATE)
    assert passed(MessageGate(deflate), [data])[1] == [UNREADABLE, UNREADABLE]


@pytest.mark.parametrize("size", [10, 2 << 20])
def test_read_takes_a_broken_end_for_a_turn(size: int) -> None:
    """A message that cannot be decompressed to its end may ask for a turn, whatever its start says."""
    text = json.dumps({"type": "x", "y": "z" * size}).encode()
    stream = zlib.compressobj(wbits=-15)
    data = stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH) + b"\xff\xff\xff"
    frame = Peer(is_client=True).text(data)
    gate = MessageGate(DeflateParameters())
    (held,) = gate.feed(bytes([frame[0] | 0x40]) + frame[1:])
    assert isinstance(held, HeldMessage)
    assert held.read() == UNREADABLE


def test_decisions_without_a_message_are_defects() -> None:
    """Who decides about nothing has lost count."""
    for decide in (MessageGate(None).forward, MessageGate(None).drop):
        with pytest.raises(RuntimeError):
            decide()


def test_response_create_reads_blocks_of_any_size() -> None:
    """How the text comes does not matter."""
    assert response_create(CREATE[at : at + 1] for at in range(len(CREATE))) == ResponseCreate(FACTS)
