"""Messages of a WebSocket server: those that matter are found in any split, others cost little."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.frames import server_close
from ocm_wsgi.protocol.websocket.message_observer import Closing, Message, MessageObserver
from tests.websocket_peers import DEFLATES, SPLITS, Peer, Split

DELTA = b'{"type":"response.output_text.delta","delta":"some text"}'
COMPLETED = b'{"type":"response.completed","response":{"id":"resp_1"}}'
LIMITS = b'{"type":"codex.rate_limits","rate_limits":{}}'

# A message, and the type that its beginning names if the message may matter, else None.
MESSAGES = [
    pytest.param(DELTA, None, id="delta"),
    pytest.param(
        b'{"type":"response.in_progress","response":{"type":"response.completed"}}', None, id="speaks-of-another"
    ),
    pytest.param(b'{"type":"response.completed.not"}', None, id="longer-name"),
    pytest.param(COMPLETED, "response.completed", id="completed"),
    pytest.param(b'{"type":"response.incomplete"}', "response.incomplete", id="incomplete"),
    pytest.param(b'{"type":"response.failed"}', "response.failed", id="failed"),
    pytest.param(b'{"type":"error","status":429}', "error", id="error"),
    pytest.param(LIMITS, "codex.rate_limits", id="limits"),
    pytest.param(b' {\n "type" : "response.completed" }', "response.completed", id="blanks"),
    pytest.param(b'{"id":1,"type":"response.completed"}', "", id="type-comes-later"),
    pytest.param(b'{"type":"response.c\\u006fmpleted"}', "", id="escaped-type"),
    pytest.param(b'{"id":"' + b"x" * 1000 + b'","type":"error"}', "", id="type-comes-very-late"),
    pytest.param(b"", "", id="empty"),
    pytest.param(b"no JSON", "", id="no-json"),
]


@pytest.mark.parametrize("deflate", [None, DeflateParameters(), DeflateParameters(server_no_context_takeover=True)])
@pytest.mark.parametrize(("text", "type_"), MESSAGES)
@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "octets"])
def test_feed_finds_what_may_matter(
    deflate: DeflateParameters | None, text: bytes, type_: str | None, is_split: bool
) -> None:
    """A message that names another type at its beginning is skipped; any other is returned completely."""
    data = Peer(deflate).text(text)
    observer = MessageObserver(deflate)
    reads = [data[at : at + 1] for at in range(len(data))] if is_split else [data]
    found = [event for read in reads for event in observer.feed(read)]
    assert [(event.type, bytes(event.buffer.octets)) for event in found if isinstance(event, Message)] == (
        [] if type_ is None else [(type_, text)]
    )
    assert observer.failure is None


SAID = st.lists(
    st.sampled_from(
        [DELTA, COMPLETED, LIMITS, b'{"x":1,"type":"error"}', b'{"type":"response.x","y":"' + b"z" * 900 + b'"}']
    ),
    max_size=8,
)


@given(SAID, DEFLATES, SPLITS, st.data())
def test_feed_finds_the_same_in_any_split(
    texts: list[bytes], deflate: DeflateParameters | None, split: Split, data: st.DataObject
) -> None:
    """Fragments, control frames between them, any compression and any split make no difference."""
    peer = Peer(deflate)
    stream = b""
    ends: dict[int, bytes] = {}
    for text in texts:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
        frames = peer.fragments([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)])
        stream += peer.frame(Opcode.PING, b"ping").join(frames)
        ends[len(stream)] = text
    expected = {end: text for end, text in ends.items() if b"response.x" not in text and text != DELTA}
    observer = MessageObserver(deflate)
    found: dict[int, bytes] = {}
    at = 0
    for read in split.of(stream):
        for event in observer.feed(read):
            assert isinstance(event, Message)
            found[at + event.stop] = bytes(event.buffer.octets)
        at += len(read)
    assert found == expected
    assert observer.is_between_messages


def test_feed_respects_the_ends_of_messages() -> None:
    """An unterminated first string does not extend into the next message."""
    (event,) = MessageObserver(None).feed(Peer().text(b'{"type":"x') + Peer().text(DELTA) + Peer().text(COMPLETED))[1:]
    assert isinstance(event, Message)
    assert event.type == "response.completed"


def test_feed_detects_violations_in_skipped_messages() -> None:
    """A length that is not in its shortest form is a violation even in a skipped message."""
    observer = MessageObserver(None)
    text = DELTA
    assert observer.feed(b"\x81\x7e" + len(text).to_bytes(2, "big") + text) == []
    assert observer.failure is not None


def test_feed_ignores_frames_within_messages() -> None:
    """Data within a message that looks like a frame is ignored."""
    observer = MessageObserver(None)
    before, inner, behind = b'{"x":"', Peer().text(DELTA), b'","type":"error"}'
    message = Peer().text(before + inner + behind)
    start = message.index(inner)
    reads = (message[:start], inner, message[start + len(inner) :])
    (event,) = [event for read in reads for event in observer.feed(read)]
    assert isinstance(event, Message)
    assert bytes(event.buffer.octets) == before + inner + behind


def test_feed_skips_a_message_in_several_reads() -> None:
    """A skipped message may span several reads; the next one begins after its end."""
    observer = MessageObserver(None)
    stream = Peer().text(DELTA) + Peer().text(COMPLETED)
    (event,) = [event for read in (stream[:52], stream[52:]) for event in observer.feed(read)]
    assert isinstance(event, Message)
    assert event.type == "response.completed"


@pytest.mark.parametrize("size", [125, 126, 200, 65535, 65536, 70_000])
def test_feed_skips_messages_of_any_length(size: int) -> None:
    """The next message begins where a skipped one ends, for every form of its length."""
    delta = Peer().text(DELTA[:-2].ljust(size - 2, b"x") + b'"}')
    (event,) = MessageObserver(None).feed(2 * delta + Peer().text(COMPLETED) + delta)
    assert isinstance(event, Message)
    assert (event.type, event.start) == ("response.completed", 2 * len(delta))


def test_feed_returns_where_a_message_starts() -> None:
    """Octets before a message may be sent; if it started in an earlier read, none of this read may."""
    observer = MessageObserver(None)
    delta, completed = Peer().text(DELTA), Peer().text(COMPLETED)
    (event,) = observer.feed(delta + completed + delta)
    assert isinstance(event, Message)
    assert (event.start, event.stop) == (len(delta), len(delta + completed))
    assert observer.feed(completed[:-1]) == []
    (event,) = observer.feed(completed[-1:] + delta)
    assert isinstance(event, Message)
    assert (event.start, event.stop) == (0, 1)


def test_feed_returns_where_a_fragmented_message_starts() -> None:
    """A message starts with its first fragment, whatever comes between that and the last."""
    ping = Peer().frame(Opcode.PING, b"")
    first, second = Peer().fragments([COMPLETED[:10], COMPLETED[10:]])
    (event,) = MessageObserver(None).feed(ping + first + ping + second)
    assert isinstance(event, Message)
    assert event.start == len(ping)


@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "octets"])
def test_feed_returns_a_close_frame(is_split: bool) -> None:
    """The code of a Close frame is returned in order."""
    data = Peer().text(DELTA) + server_close(1001, "going")
    reads = [data[at : at + 1] for at in range(len(data))] if is_split else [data]
    observer = MessageObserver(None)
    found = [event for read in reads for event in observer.feed(read)]
    assert found == [Closing(1001)]


def test_feed_skips_binary_messages() -> None:
    """A binary message is skipped, but its compression context is kept."""
    deflate = DeflateParameters()
    peer = Peer(deflate)
    observer = MessageObserver(deflate)
    assert observer.feed(peer.frame(Opcode.BINARY, COMPLETED)) == []
    (event,) = observer.feed(peer.text(COMPLETED))
    assert isinstance(event, Message)
    assert bytes(event.buffer.octets) == COMPLETED


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"\xc1\x03\xff\xff\xff", id="not-deflate"),
        pytest.param(b"\x83\x00", id="violation"),
    ],
)
def test_feed_finds_nothing_after_an_error(bad: bytes) -> None:
    """Earlier messages are returned, no exception is raised, and no later message is found."""
    deflate = DeflateParameters()
    observer = MessageObserver(deflate)
    peer = Peer(deflate)
    (event,) = observer.feed(peer.text(COMPLETED) + bad)
    assert isinstance(event, Message)
    assert observer.failure
    assert observer.feed(peer.text(COMPLETED)) == []


@given(st.lists(st.binary(max_size=60), max_size=10), st.booleans())
def test_feed_accepts_any_octets(reads: list[bytes], is_compressed: bool) -> None:
    """No octets from a server raise an exception."""
    observer = MessageObserver(DeflateParameters() if is_compressed else None)
    for data in reads:
        observer.feed(data)


@pytest.mark.parametrize("deflate", [None, DeflateParameters(), DeflateParameters(server_no_context_takeover=True)])
def test_feed_does_not_buffer_large_messages_of_other_types(deflate: DeflateParameters | None) -> None:
    """A large message that ends no turn is not buffered, compressed or not."""
    text = json.dumps({"type": "response.output_item.done", "item": "x" * (8 << 20)}, separators=(",", ":")).encode()
    stream = Peer(deflate).text(text) + Peer(deflate).text(DELTA)
    observer = MessageObserver(deflate)
    reads = [stream[at : at + 65536] for at in range(0, len(stream), 65536)]
    tracemalloc.start()
    for data in reads:
        assert observer.feed(data) == []
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 1 << 20


@pytest.mark.parametrize(
    ("text", "type_"),
    [(COMPLETED[:-1] + b',"x":"%s"}', "response.completed"), (b'{"x":"%s"}', None), (b"%s", None)],
    ids=["terminal", "type-unknown", "no-json"],
)
def test_feed_limits_its_buffer(text: bytes, type_: str | None) -> None:
    """The tail of a message beyond the limit is buffered if it names its type first, else nothing."""
    deflate = DeflateParameters()
    observer = MessageObserver(deflate, limit=1 << 20)
    bomb = Peer(deflate).text(text.replace(b"%s", b"x" * (32 << 20)))
    tracemalloc.start()
    found = observer.feed(bomb)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 4 << 20
    assert [(event.type, event.buffer.overflowed) for event in found if isinstance(event, Message)] == (
        [] if type_ is None else [(type_, True)]
    )
