"""Web pages of other origins: the answers that a browser sees."""

from __future__ import annotations

import json

from ocm_wsgi.simulator import Plan
from tests.api_requests import BODY, LENGTH, error_of, exchange
from tests.conftest import ALICE, RunningService, ServiceFactory

APP = "http://localhost:3000"


def preflight(running: RunningService, origin: str, target: str = "/v1/responses") -> tuple[int, dict[str, str], bytes]:
    """Ask as a browser does: without a token."""
    lines = [
        f"OPTIONS {target} HTTP/1.1",
        "Host: localhost",
        f"Origin: {origin}",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,content-type",
    ]
    return exchange(running, ("\r\n".join(lines) + "\r\n\r\n").encode())


def turn(running: RunningService, token: str, **fields: object) -> tuple[int, dict[str, str], bytes]:
    """Send a turn as a page does."""
    lines = ["POST /v1/responses HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
    lines += [f"{name}: {value}" for name, value in {**fields, **LENGTH}.items()]
    return exchange(running, ("\r\n".join(lines) + "\r\n\r\n").encode() + BODY)


def test_no_origin_is_allowed_by_default(running: RunningService) -> None:
    """A preflight gets a sentence, and no response may be read by a page, whatever upstream says."""
    status, fields, body = preflight(running, APP)
    assert (status, error_of(body)["code"]) == (403, "foreign_origin")
    assert "allow_origins" in error_of(body)["message"]
    running.simulator.plan(Plan(fields=[("Access-Control-Allow-Origin", "*")]))
    answered = turn(running, ALICE, Origin=APP)
    assert answered[0] == 200
    assert not [name for name in {*fields, *answered[1]} if name.startswith("access-control-")]


def test_pages_of_an_allowed_origin(service: ServiceFactory) -> None:
    """The preflight passes, and the page can read responses and errors; pages of other origins can read neither."""
    running = service(allow_origins=[APP.upper() + "/"], workers=1)
    status, fields, body = preflight(running, APP)
    assert (status, body) == (204, b"")
    assert fields["access-control-allow-origin"] == APP
    assert fields["access-control-allow-headers"] == "authorization, content-type"
    assert "content-type" not in fields
    assert running.simulator.requests == []
    running.simulator.plan(Plan(fields=[("Access-Control-Allow-Origin", "https://evil.example")]))
    for token, expected in ((ALICE, 200), ("sk-ocm-none", 401)):
        status, fields, _ = turn(running, token, Origin=APP)
        assert (status, fields["access-control-allow-origin"], fields["vary"]) == (expected, APP, "Origin")
        status, fields, _ = turn(running, token, Origin="https://evil.example")
        assert (status, fields.get("access-control-allow-origin"), fields["vary"]) == (expected, None, "Origin")
    assert preflight(running, "https://evil.example")[0] == 403
    assert "access-control-allow-origin" not in preflight(running, APP, "/ocm/v1/usage")[1]


def test_pages_and_a_service_without_users(service: ServiceFactory) -> None:
    """Without users, pages of the origins that are named can use the service, and "*" means none."""
    running = service(users={}, allow_origins=["*", APP], workers=1)
    for origin, expected in ((APP, (204, 200)), ("https://evil.example", (403, 403))):
        page = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        assert (preflight(running, origin)[0], turn(running, "none", **page)[0]) == expected


def test_a_preflight_opens_no_other_door(running: RunningService) -> None:
    """An OPTIONS that is no preflight is refused like any other method."""
    status, fields, body = exchange(
        running, f"OPTIONS /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALICE}\r\n\r\n".encode()
    )
    assert (status, fields["allow"], json.loads(body)["error"]["code"]) == (405, "POST", "method_not_supported")
