"""Recognising the requests that web pages make browsers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.errors import ForeignOrigin, UntrustedHost
from ocm_wsgi.protocol.http.browsers import require_own_host, require_own_origin
from ocm_wsgi.protocol.http.fields import Fields

# The last three stand for no address in particular.
LISTENS_ON = ("192.0.2.7", "2001:db8::7", "::ffff:192.0.2.8", "0.0.0.0", "::", "")
ALLOWED = ("https://app.example", "http://Tools.example:3000")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8080",
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.9.8.7:1",
        "[::1]:8080",
        "[::ffff:127.0.0.1]:8080",
        "192.0.2.7:8080",
        "192.0.2.8:8080",
        "[2001:db8::7]",
        "[2001:DB8:0::7]:65535",
        "app.example",
        "tools.example:3000",
    ],
)
def test_own_host(host: str) -> None:
    """Loopback, ``localhost``, the addresses that the service listens on, and the names of allowed origins pass."""
    require_own_host([("HOST", host)], listens_on=LISTENS_ON, allow_origins=ALLOWED)


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [""],
        ["evil.example"],
        ["evil.example:8080"],
        ["localhost.evil.example"],
        ["127.0.0.1.evil.example"],
        ["evil.example@localhost"],
        ["localhost,evil.example"],
        ["localhost", "localhost"],
        ["127.0.0.1", "evil.example"],
        ["localhost:8080:8080"],
        ["localhost."],
        ["192.0.2.9:8080"],
        ["0.0.0.0:8080"],
        ["[::]:8080"],
        ["127.1"],
        ["0x7f000001"],
        ["2130706433"],
        ["app.example:444"],
        ["tools.example"],
        ["[localhost]"],
        ["loc\u00e4lhost"],
    ],
)
def test_other_host(hosts: list[str]) -> None:
    """Every other name is refused, because a page may have it; so is one that two parsers might read differently."""
    fields: Fields = [("Host", host) for host in hosts]
    with pytest.raises(UntrustedHost):
        require_own_host(fields, listens_on=LISTENS_ON, allow_origins=ALLOWED)


@given(st.text(st.characters(max_codepoint=255), max_size=30))
def test_any_host(text: str) -> None:
    """No other text passes as a host of ours."""
    try:
        require_own_host([("host", text)], listens_on=(), allow_origins=())
    except UntrustedHost:
        return
    name = text.strip().lower().rpartition(":")[0] or text.strip().lower()
    assert name == "localhost" or name.startswith(("127.", "[::", "[0", "::"))


HOST = ("Host", "localhost:8080")


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Origin", "http://localhost:8080")],
        [("Origin", "HTTP://LOCALHOST:8080"), ("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "none")],
        [("Origin", "https://app.example"), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", "http://tools.example:3000")],
    ],
)
def test_own_origin(fields: Fields) -> None:
    """Other clients than browsers, our own pages, what the user opens, and allowed origins pass."""
    require_own_origin([HOST, *fields], allow_origins=ALLOWED)


@pytest.mark.parametrize(
    "fields",
    [
        [("Origin", "https://evil.example")],
        [("Origin", "http://localhost")],
        [("Origin", "http://localhost:3000"), ("Sec-Fetch-Site", "same-site")],
        [("Origin", "http://127.0.0.1:8080")],
        [("Origin", "null")],
        [("Origin", "")],
        [("Origin", "file://localhost:8080")],
        [("Origin", "localhost:8080")],
        [("Origin", "http://localhost:8080"), ("Origin", "http://localhost:8080")],
        [("Origin", "http://localhost:8080"), ("Origin", "https://evil.example")],
        [("Origin", "http://localhost:8080"), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", "http://app.example")],
        [("Origin", "https://app.example.evil.example")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "")],
        [("Sec-Fetch-Site", "unknown")],
    ],
)
def test_other_origin(fields: Fields) -> None:
    """A page of another origin, even of this machine, is refused, and so is a value that is not known."""
    with pytest.raises(ForeignOrigin):
        require_own_origin([HOST, *fields], allow_origins=ALLOWED)


def test_origin_without_host() -> None:
    """An origin is not the same as a missing ``Host``."""
    with pytest.raises(ForeignOrigin):
        require_own_origin([("Origin", "http://")], allow_origins=())
