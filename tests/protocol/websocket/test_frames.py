"""WebSocket frames in any split, checked against RFC 6455 and the ``websockets`` package."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from ocm_wsgi.protocol.websocket.frames import FrameParser, close_of, server_close, server_text, unmask
from tests.websocket_peers import SPLITS, Peer, Split

MASK = b"\x0a\x0b\x0c\x0d"

# Protocol violations: whether the client sends it, whether compression was negotiated, the octets.
VIOLATIONS = [
    pytest.param(False, False, b"\x81\x85" + MASK + b"hello", id="masked-by-the-server"),
    pytest.param(True, False, b"\x81\x05hello", id="not-masked-by-the-client"),
    pytest.param(False, False, b"\xc1\x00", id="rsv1-without-compression"),
    pytest.param(False, True, b"\xa1\x00", id="rsv2"),
    pytest.param(False, True, b"\x91\x00", id="rsv3"),
    pytest.param(False, True, b"\xc9\x00", id="rsv1-on-a-ping"),
    pytest.param(False, True, b"\x41\x01a\xc0\x01b", id="rsv1-on-a-continuation"),
    pytest.param(False, False, b"\x83\x00", id="reserved-data-opcode"),
    pytest.param(False, False, b"\x8b\x00", id="reserved-control-opcode"),
    pytest.param(False, False, b"\x09\x00", id="fragmented-ping"),
    pytest.param(False, False, b"\x89\x7e\x00\x7e" + bytes(126), id="long-ping"),
    pytest.param(False, False, b"\x80\x00", id="continuation-of-nothing"),
    pytest.param(False, False, b"\x01\x01a\x81\x01b", id="message-within-a-message"),
    pytest.param(False, False, b"\x81\x7e\x00\x7d" + bytes(125), id="length-16-for-7"),
    pytest.param(False, False, b"\x81\x7f" + (65535).to_bytes(8, "big") + bytes(65535), id="length-64-for-16"),
    pytest.param(False, False, b"\x81\x7f\xff" + bytes(7), id="length-with-its-top-bit"),
]


def payloads(parser: FrameParser, reads: list[bytes]) -> list[tuple[int, bytes]]:
    """Return first octet and payload of each frame; assert that the offsets cover all reads."""
    found: list[tuple[int, bytes]] = []
    payload = b""
    for data in reads:
        at = 0
        for frame_slice in parser.feed(data):
            assert frame_slice.start == at
            assert frame_slice.start <= frame_slice.payload_start <= frame_slice.stop
            assert frame_slice.payload_offset == len(payload)
            at = frame_slice.stop
            payload += unmask(
                data[frame_slice.payload_start : frame_slice.stop], frame_slice.mask, frame_slice.payload_offset
            )
            if frame_slice.is_last:
                found.append((frame_slice.first_octet, payload))
                payload = b""
    return found


@pytest.mark.parametrize("is_client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize("most", [None, 9000, 1])
def test_feed_finds_a_frame_of_any_length(is_client: bool, size: int, most: int | None) -> None:
    """Each form of the length is parsed, in one piece, in many and octet by octet."""
    text = bytes(number % 251 for number in range(size))
    data = Peer(is_client=is_client).frame(Opcode.BINARY, text)
    reads = [data] if most is None else Split(size, most).of(data)
    parser = FrameParser(masked=is_client, compressible=False)
    assert payloads(parser, reads) == [(0x82, text)]
    assert parser.violation is None
    assert parser.is_between_messages


FRAMES = st.lists(
    st.tuples(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG]), st.binary(max_size=100)),
    max_size=8,
)


@given(FRAMES, st.booleans(), SPLITS)
def test_feed_finds_the_same_frames_in_any_split(
    frames: list[tuple[Opcode, bytes]], is_client: bool, split: Split
) -> None:
    """The same frames are found in any split of a stream."""
    peer = Peer(is_client=is_client)
    data = b"".join(peer.frame(opcode, payload) for opcode, payload in frames)
    parser = FrameParser(masked=is_client, compressible=False)
    assert payloads(parser, split.of(data)) == [(0x80 | opcode, payload) for opcode, payload in frames]


@pytest.mark.parametrize(("masked", "compressible", "data"), VIOLATIONS)
@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "octets"])
def test_feed_gives_up_at_a_violation(masked: bool, compressible: bool, data: bytes, is_split: bool) -> None:
    """A protocol violation ends the parsing without an exception; earlier frames were found."""
    parser = FrameParser(masked=masked, compressible=compressible)
    good = Peer(is_client=masked).text(b"good")
    octets = good + data
    reads = [octets[at : at + 1] for at in range(len(octets))] if is_split else [octets]
    assert payloads(parser, reads)[0] == (0x81, b"good")
    assert parser.violation
    assert not parser.is_between_messages
    assert parser.feed(good) == []


def test_feed_one_message() -> None:
    """Control frames may come before and within the message; the octets after it are left to another call."""
    peer = Peer(is_client=True)
    first, second = peer.fragments([b"a", b"b"])
    ping = peer.frame(Opcode.PING, b"")
    data = ping + first + ping + second
    parser = FrameParser(masked=True, compressible=False)
    slices = parser.feed(data + ping + first, one_message=True)
    assert slices[-1].stop == len(data)
    assert [frame_slice.ends_message for frame_slice in slices] == [False, False, False, True]
    assert len(parser.feed(ping + first, one_message=True)) == 2


def test_is_between_messages_is_false_within_frames_and_messages() -> None:
    """No frame may be inserted into a frame, its head, or a fragmented message; anywhere else one may."""
    first, second = Peer().fragments([b"one", b"two"])
    parser = FrameParser(masked=False, compressible=False)
    seen = []
    for octet in first + server_close(1000) + second:
        parser.feed(bytes([octet]))
        seen.append(parser.is_between_messages)
    assert seen == [False] * (len(seen) - 1) + [True]


@given(st.binary(max_size=200), st.binary(min_size=4, max_size=4), st.integers(0, 200))
def test_unmask_undoes_the_mask_at_any_position(data: bytes, mask: bytes, position: int) -> None:
    """Each octet is combined with the key's octet for its position in the payload."""
    expected = bytes(octet ^ mask[(position + at) % 4] for at, octet in enumerate(data))
    assert unmask(data, mask, position) == expected


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_server_text_is_accepted_by_a_client(size: int) -> None:
    """Another implementation accepts our text and Close frames."""
    client = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN)
    client.receive_data(server_text(b"x" * size) + server_close(1008, "refused"))
    text, close = client.events_received()
    assert isinstance(text, Frame)
    assert (text.opcode, bytes(text.data), text.fin) == (Opcode.TEXT, b"x" * size, True)
    assert isinstance(close, Frame)
    assert client.close_rcvd == Close(1008, "refused")


@pytest.mark.parametrize(
    ("payload", "close"),
    [(b"", (1005, "")), (b"\x03\xe8", (1000, "")), (b"\x03\xf0no", (1008, "no")), (b"\x03\xf0\xff", (1008, "\ufffd"))],
)
def test_close_of_reads_code_and_reason(payload: bytes, close: tuple[int, str]) -> None:
    """Code and reason are returned; a frame without them has 1005, and an invalid reason is no error."""
    assert close_of(payload) == close
