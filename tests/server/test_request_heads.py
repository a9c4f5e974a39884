"""Field lines that are remembered are parsed as gunicorn parses them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.server import request_heads
from ocm_wsgi.server.request_heads import RememberingRequest, remember_lines

LINES = [
    *(b"Host: a", b"host: b", b"Content-Type: application/json", b"CONTENT-TYPE: text/plain", b"Content-Length: 0"),
    *(b"Content-Length: 2", b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Expect: x", b"Connection: close"),
    *(
        b"Authorization: Bearer x",
        b"Cookie: a=b",
        b"A: b",
        b"A:b",
        b"A: \t b \t",
        b"a: c",
        b"A :b",
        b" A: b",
        b"\tA: b",
    ),
    *(b"A", b":", b"A: \x00", b"A: \r", b"A: \n", b"\xe4: b", b"A: \xe4", b"session_id: 1", b"other_name: 1", b"A: "),
    *(b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: on", b"X-Forwarded-Proto: http", b"X: " + bytes(300)),
]


def settings(**options: Any) -> Config:
    """Return gunicorn's settings, as the worker has them."""
    config = Config()
    for name, value in {"http_parser": "python", "forwarder_headers": "SESSION_ID", **options}.items():
        config.set(name, value)
    return config


CONFIGS = [
    settings(forwarded_allow_ips="*", secure_scheme_headers={}),
    settings(secure_scheme_headers={}, forwarded_allow_ips="192.0.2.1"),
    settings(),
    settings(forwarded_allow_ips="*", secure_scheme_headers={}, permit_obsolete_folding=True),
    settings(forwarded_allow_ips="*", secure_scheme_headers={}, limit_request_fields=3, strip_header_spaces=True),
]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    RememberingRequest.remembered.clear()
    yield
    RememberingRequest.remembered.clear()


def parsed(kind: type[Request], config: Config, lines: list[bytes]) -> object:
    """Return what a request with these field lines is understood as."""
    head = b"\r\n".join([b"POST /v1/responses HTTP/1.1", *lines, b"", b""])
    try:
        request = kind(config, IterUnreader([head]), ("192.0.2.9", 1))
    except Exception as exc:
        return type(exc), str(exc)
    reader = type(request.body.reader).__name__
    return request.headers, request.scheme, request._expected_100_continue, request.should_close(), reader


@given(
    heads=st.lists(st.lists(st.sampled_from(LINES), max_size=6), min_size=1, max_size=6),
    which=st.integers(0, len(CONFIGS) - 1),
)
def test_a_head_is_parsed_as_gunicorn_does(heads: list[list[bytes]], which: int) -> None:
    """Whatever was parsed before, a head has the fields, the framing or the error that it has for gunicorn."""
    RememberingRequest.remembered.clear()  # Their settings differ.
    for lines in [*heads, *heads]:
        expected = parsed(Request, CONFIGS[which], lines)
        assert parsed(RememberingRequest, CONFIGS[which], lines) == expected


def test_only_plain_lines_are_remembered() -> None:
    """Neither secrets nor lines that no other request repeats are remembered."""
    parsed(
        RememberingRequest, CONFIGS[0], [b"Authorization: Bearer x", b"Content-Length: 0", b"A: b", b"session_id: 1"]
    )
    parsed(RememberingRequest, CONFIGS[0], [b"B: " + b"x" * request_heads.LONGEST_LINE])
    assert RememberingRequest.remembered == {b"A: b": ("A", "b")}


def test_remembered_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that makes lines up does not make the memory grow."""
    monkeypatch.setattr(request_heads, "MOST_LINES", 10)
    for number in range(100):
        parsed(RememberingRequest, CONFIGS[0], [b"A: %d" % number])
        assert len(RememberingRequest.remembered) <= 10


def test_remember_lines() -> None:
    """A parser of gunicorn's makes such requests; one of another kind is left alone."""
    parser = RequestParser(CONFIGS[0], iter([b"GET / HTTP/1.1\r\nA: b\r\n\r\n"]), ("192.0.2.9", 1))
    remember_lines(parser)
    assert next(parser).headers == [("A", "b")]
    assert RememberingRequest.remembered == {b"A: b": ("A", "b")}
    remember_lines(object())
