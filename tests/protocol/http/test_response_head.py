"""Response heads are parsed strictly, in any split."""

from __future__ import annotations

import pytest

from ocm_wsgi.protocol.http.response_head import FIELD_LIMIT, HEAD_LIMIT_BYTES, HeadError, HeadReader, ResponseHead

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Multi: 1\r\nX-Multi: 2\r\n\r\n"


def read(octets: bytes) -> ResponseHead:
    """Return the head at the beginning of these octets."""
    reader = HeadReader()
    reader.feed(octets)
    head = reader.next_head()
    assert head is not None
    return head


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_heads_are_found_in_any_split(size: int) -> None:
    """Two consecutive heads are parsed the same in any split, and the octets after them stay unread."""
    octets = b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD + b"body"
    reader = HeadReader()
    heads: list[ResponseHead] = []
    for at in range(0, len(octets), size):
        reader.feed(octets[at : at + size])
        while len(heads) < 2 and (head := reader.next_head()):
            heads.append(head)
    assert [(head.status, head.reason) for head in heads] == [(103, "Early Hints"), (200, "OK")]
    assert heads[1].fields == [("Content-Type", "text/plain"), ("X-Multi", "1"), ("X-Multi", "2")]
    assert reader.unread == b"body"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"A:b", ("A", "b")),
        (b"A: \t b \t", ("A", "b")),
        (b"A:", ("A", "")),
        (b"A : b", ("A", "b")),
        (b"A: b:c", ("A", "b:c")),
        (b"A: \xe4", ("A", "\xe4")),
        (b"A: b\r\n  c\r\n\td", ("A", "b c d")),
        (b"A: b\n c", ("A", "b c")),
    ],
)
def test_field_line(line: bytes, field: tuple[str, str]) -> None:
    """Whitespace around a value and before the colon is removed; folded lines are unfolded; octets are kept."""
    assert read(b"HTTP/1.1 200 OK\r\n" + line + b"\r\nB: x\r\n\r\n").fields == [field, ("B", "x")]


def test_bare_line_feeds() -> None:
    """A lone line feed ends a line, as RFC 9112 section 2.2 allows."""
    assert read(b"HTTP/1.1 204\nA: b\n\n").fields == [("A", "b")]


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"SSH-2.0", id="another-protocol"),
        pytest.param(b"HTTP/2 200\r\n\r\n", id="another-version"),
        pytest.param(b"\r\n\r\n", id="empty"),
        pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", id="short-status"),
        pytest.param(b"HTTP/1.1 099 OK\r\n\r\n", id="small-status"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="long-status"),
        pytest.param(b"HTTP/1.1 200 O\rK\r\n\r\n", id="control-in-reason"),
        pytest.param(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", id="no-colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (FIELD_LIMIT + 1) + b"\r\n", id="too-many-fields"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * HEAD_LIMIT_BYTES, id="too-long-and-not-ended"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * HEAD_LIMIT_BYTES + b"\r\n\r\n", id="too-long"),
    ],
)
def test_invalid_head_is_refused_early(octets: bytes) -> None:
    """An invalid head is refused as soon as possible, before its end."""
    with pytest.raises(HeadError):
        read(octets)


@pytest.mark.parametrize(
    ("method", "status", "lines", "framing"),
    [
        ("GET", 200, b"", (False, None)),
        ("GET", 200, b"Content-Length: 5\r\n", (False, 5)),
        ("GET", 200, b"Content-Length: 5, 5\r\nContent-Length: 5\r\n", (False, 5)),
        ("GET", 200, b"Transfer-Encoding: Chunked\r\nContent-Length: 5\r\n", (True, None)),
        ("HEAD", 200, b"Content-Length: 5\r\n", (False, 0)),
        ("HEAD", 200, b"Transfer-Encoding: chunked\r\n", (False, 0)),
        ("GET", 204, b"", (False, 0)),
        ("GET", 304, b"Content-Length: 5\r\n", (False, 0)),
        ("GET", 101, b"", (False, 0)),
    ],
)
def test_framing(method: str, status: int, lines: bytes, framing: tuple[bool, int | None]) -> None:
    """The body's length follows RFC 9112 section 6.3."""
    assert read(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, lines)).framing(method) == framing


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 1_0\r\n",
        b"Content-Length: " + b"9" * 30 + b"\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
    ],
)
def test_ambiguous_framing_is_refused(lines: bytes) -> None:
    """An ambiguous length and an unknown coding are refused."""
    with pytest.raises(HeadError):
        read(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n").framing("GET")


@pytest.mark.parametrize(
    ("octets", "keeps_alive"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n", False),
    ],
)
def test_keeps_alive(octets: bytes, keeps_alive: bool) -> None:
    """A connection is reused if both sides permit it and it still speaks HTTP."""
    assert read(octets).keeps_alive is keeps_alive
