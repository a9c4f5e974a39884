"""The heads of relayed responses, as gunicorn writes them."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any


def response_head(response: Any) -> bytes:
    """Return what gunicorn's ``send_headers`` would send, but format the date once a second only."""
    major, minor = response.req.version
    connection = "upgrade" if response.upgrade else "close" if response.should_close() else "keep-alive"
    lines = [
        f"HTTP/{major}.{minor} {response.status}",
        f"Server: {response.version}",
        f"Date: {_date(int(time.time()))}",
        f"Connection: {connection}",
    ]
    if response.chunked:
        lines.append("Transfer-Encoding: chunked")
    lines += [f"{name}: {value}" for name, value in response.headers]
    response.headers_sent = True
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)
