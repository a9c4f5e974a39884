"""The head of a relayed response is the one that gunicorn would send."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.wsgi import Response

from ocm_wsgi.server.request_adapters import Outgoing
from ocm_wsgi.server.response_heads import response_head


def begun(status: str, fields: list[tuple[str, str]], version: tuple[int, int], *, closes: bool) -> Any:
    """Return gunicorn's response after ``start_response``."""
    request = SimpleNamespace(method="POST", version=version, should_close=lambda: closes)
    response = Response(request, Outgoing(), Config())
    response.start_response(status, fields)
    return response


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("version", [(1, 0), (1, 1)])
@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("200 OK", [("Content-Type", "text/event-stream"), ("X-A", "\xe4"), ("X-A", "b")]),
        ("200 OK", [("Content-Length", "5")]),
        ("204 No Content", []),
        ("200 OK", [("Connection", "upgrade"), ("Upgrade", "websocket")]),
    ],
)
def test_head(status: str, fields: list[tuple[str, str]], version: tuple[int, int], closes: bool) -> None:
    """It is gunicorn's to the byte, but for the date."""
    ours, theirs = (begun(status, fields, version, closes=closes) for _ in range(2))
    head = response_head(ours)
    theirs.send_headers()
    date = re.compile(rb"\r\nDate: (\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT)\r\n")
    assert date.search(head)
    assert date.sub(b"", head) == date.sub(b"", bytes(theirs.sock.data))
    assert ours.headers_sent
