"""Targets outside of their API are detected, however they are written."""

from __future__ import annotations

import pytest

from ocm_wsgi.simulator import PRIVATE_MARKER, Simulator
from ocm_wsgi.simulator.targets import escapes, path_of, readings
from tests.simulator.simulator_clients import exchange_raw

ESCAPES = [
    "/backend-api/codex/../conversations",
    "/backend-api/codex/%2e%2e/conversations",
    "/backend-api/codex/.%2E/conversations",
    "/backend-api/codex/%252e%252e/conversations",
    "/backend-api/codex/..%2fconversations",
    "/backend-api/codex/..\\conversations",
    "/backend-api/codex/..%5cconversations",
    "/backend-api/codex/x/../../conversations",
    "/backend-api/codex//..//..//conversations",
    "/backend-api/codex/..;/conversations",
    "/backend-api/codex/..;a=b/conversations",
    "/backend-api/codex/%c0%ae%c0%ae/conversations",
    "/backend-api/codex/..%c0%afconversations",
    "/backend-api/codex/..%00/conversations",
    "/backend-api/codex/%09../conversations",
    "/backend-api/codex../conversations",
    "/backend-api/codex%2f..%2fconversations",
    "/backend-api/codex-other",
    "/v1/../backend-api/conversations",
    "/v1/%2e%2e/oauth/token",
    "/v1/../../",
]


@pytest.mark.parametrize("target", ESCAPES)
def test_escape_shows_the_private_item(sim: Simulator, target: str) -> None:
    """However it is written, a target that can be interpreted as outside its API returns the marker."""
    raw = exchange_raw(sim, f"GET {target} HTTP/1.0\r\n\r\n".encode("latin-1"))
    assert PRIVATE_MARKER.encode() in raw
    assert raw.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "target",
    [
        "/backend-api/codex/responses",
        "/backend-api/codex",
        "/backend-api/codex/a..b/...",
        "/backend-api/codex/x?path=/../../",
        "/v1/files/a%2Fb",
        "/v1//models",
        "/v1/models/./x",
        "/oauth/token",
        "https://example.com/v1/models",
    ],
)
def test_harmless_targets_stay(sim: Simulator, target: str) -> None:
    """Targets inside of their API are not treated as escapes."""
    assert not escapes(path_of(target))
    assert PRIVATE_MARKER.encode() not in exchange_raw(sim, f"GET {target} HTTP/1.0\r\n\r\n".encode())


def test_readings_resolve_dots_after_decoding() -> None:
    """The first reading decodes nothing, the second decodes once."""
    assert readings("/a/%2e%2e/b/./c/../d")[:2] == ["/a/%2e%2e/b/d", "/b/d"]


def test_absolute_form_is_read_as_its_path() -> None:
    """An absolute form's scheme and authority are not part of the path."""
    assert path_of("http://host:1/v1/x?y#z") == "/v1/x"
