"""The decoder of Server-Sent Events follows the WHATWG HTML standard."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.demo.sse import Event, EventDecoder, EventTooLarge

STREAMS = [
    pytest.param(b"data: a\n\n", [Event("message", "a")], id="one-event"),
    pytest.param(b"data:a\n\n", [Event("message", "a")], id="no-space"),
    pytest.param(b"data:  a\n\n", [Event("message", " a")], id="only-one-space-is-dropped"),
    pytest.param(b"data: a\r\ndata: b\r\n\r\n", [Event("message", "a\nb")], id="crlf-and-two-lines"),
    pytest.param(b"data: a\rdata: b\r\r", [Event("message", "a\nb")], id="cr"),
    pytest.param(b"data: a\r\n\ndata: b\n\r", [Event("message", "a"), Event("message", "b")], id="mixed-line-ends"),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", [Event("message", "a")], id="byte-order-mark"),
    pytest.param(b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event("message", "a")], id="mark-only-at-the-start"),
    pytest.param(b": comment\n\nevent: x\n\n", [], id="nothing-to-dispatch"),
    pytest.param(b"event: x\ndata: a\n\ndata: b\n\n", [Event("x", "a"), Event("message", "b")], id="type-is-reset"),
    pytest.param(b"data\n\n", [Event("message", "")], id="field-without-colon"),
    pytest.param(b"data:\n\n", [Event("message", "")], id="empty-data"),
    pytest.param(b"id: 1\nretry: 100\ndata: a\n\n", [Event("message", "a")], id="id-and-retry"),
    pytest.param(b" data: a\nfoo: b\n\n", [], id="unknown-fields"),
    pytest.param(b"data: a", [], id="unfinished"),
    pytest.param("data: é€😀\n\n".encode(), [Event("message", "é€😀")], id="utf-8"),
    pytest.param(b"data: \xff\n\n", [Event("message", "\ufffd")], id="broken-utf-8"),
]


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_feed_decodes_in_one_piece(stream: bytes, events: list[Event]) -> None:
    """A whole stream is decoded as the standard specifies."""
    assert EventDecoder().feed(stream) == events


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_feed_decodes_byte_by_byte(stream: bytes, events: list[Event]) -> None:
    """The same stream decodes to the same events one byte at a time."""
    decoder = EventDecoder()
    assert [event for byte in stream for event in decoder.feed(bytes([byte]))] == events


@given(st.text("ad:\r\n \u20ac", max_size=60), st.lists(st.integers(0, 100), max_size=5))
def test_feed_splits_do_not_matter(text: str, cuts: list[int]) -> None:
    """Any stream decodes to the same events however it is split."""
    stream = text.replace("ad", "data").encode()
    decoder = EventDecoder()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    events = [event for start, stop in itertools.pairwise(edges) for event in decoder.feed(stream[start:stop])]
    assert events == EventDecoder().feed(stream)


def test_flush_reports_an_unfinished_event() -> None:
    """An event without its blank line is discarded, and flush returns that there was one."""
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\n\ndata: b\n") == [Event("message", "a")]
    assert decoder.flush()
    assert not decoder.flush()


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 50, b"data: " + b"x" * 50 + b"\ndata: y", b"data: 12345\n" * 9])
def test_feed_rejects_an_event_over_the_limit(stream: bytes) -> None:
    """An event that exceeds the limit is an error, whether in one line or in many."""
    with pytest.raises(EventTooLarge):
        EventDecoder(max_event_bytes=40).feed(stream)


def test_feed_accepts_many_events_within_the_limit() -> None:
    """The limit applies to each event, not to the stream."""
    assert len(EventDecoder(max_event_bytes=40).feed(b"data: 1234567890\n\n" * 100)) == 100
