"""How much of a form is awaited."""

from __future__ import annotations

import pytest

from ocm_wsgi.protocol.http.form_arrival import MAX_FORM_BYTES, form_length

HEAD = b"POST /ocm/sign-in HTTP/1.1\r\nHost: ocm\r\n%b\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"Content-Length: 12", 12),
        (b"content-length:12 \r\nX: y", 12),
        (b"Content-Length: \t65536", MAX_FORM_BYTES),
        (b"Content-Length: 65537", 0),
        (b"Content-Length: 9999999", 0),
        (b"Content-Length: 0", 0),
        (b"Content-Length: -1", 0),
        (b"Content-Length: 1_0", 0),
        (b"Content-Length: 12\r\nContent-Length: 12", 0),
        (b"Content-Length: 12\r\nTransfer-Encoding: chunked", 0),
        (b"Content-Length: 12\r\nEXPECT : 100-continue", 0),
        (b"X-Content-Length: 12", 0),
        (b"X: Content-Length: 12", 0),
        (b"X: y", 0),
    ],
)
def test_form_length(fields: bytes, length: int) -> None:
    """Only a form whose size is certain and within the limit is awaited; others are refused unread."""
    assert form_length(HEAD % fields) == length


@pytest.mark.parametrize(
    ("line", "length"),
    [
        (b"POST /v1/responses HTTP/1.1", 0),
        (b"X /v1/ HTTP/1.1", 0),
        (b"POST /v1 HTTP/1.1", 7),
        (b"POST http://ocm/v1/responses HTTP/1.1", 7),
        (b"GET /ocm/ HTTP/1.1", 7),
        (b"", 7),
        (b"/v1/", 7),
    ],
)
def test_bodies_of_the_api_are_not_awaited(line: bytes, length: int) -> None:
    """Their senders must be known first."""
    assert form_length(line + b"\r\nContent-Length: 7\r\n\r\n") == length
