"""A service without users, and the web pages that the browsers of its machine show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from ocm_wsgi.simulator import Simulator
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User
from tests.api_requests import BODY, connected, read_response
from tests.conftest import RunningService, ServiceFactory, start_service

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
#: Method, target, fields and body of everything that a service without users serves to anyone.
REQUESTS = {
    "turn": ("POST", "/v1/responses", {}, BODY),
    "form": ("POST", "/v1/responses", {"Content-Type": "text/plain"}, BODY),
    "models": ("GET", "/v1/models", {}, b""),
    "websocket": ("GET", "/v1/responses", HANDSHAKE, b""),
    "overview": ("GET", "/ocm/", {}, b""),
    "users": ("POST", "/ocm/users", {"Content-Type": "application/x-www-form-urlencoded"}, b"name=eve&admin=1"),
    "live": ("GET", "/ocm/live", {}, b""),
    "status": ("GET", "/ocm/v1/status", {}, b""),
    "usage": ("GET", "/ocm/v1/usage", {}, b""),
    "codex": ("GET", "/api/codex/usage", {}, b""),
    "metrics": ("GET", "/metrics", {}, b""),
}
PAGES = {
    "other-origin": ({"Origin": "https://evil.example"}, 403, "foreign_origin"),
    "other-port": ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, 403, "foreign_origin"),
    "sandbox": ({"Origin": "null"}, 403, "foreign_origin"),
    "without-cors": ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403, "foreign_origin"),
    "rebound": ({"Host": "evil.example:8080"}, 400, "untrusted_host"),
    "rebound-same-origin": (
        {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        400,
        "untrusted_host",
    ),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service without users."""
    folder = tmp_path_factory.mktemp("open") / "service"
    with Simulator() as simulator, start_service(simulator, folder, users={}, workers=1) as started:
        yield started


def send(running: RunningService, name: str, fields: dict[str, str]) -> tuple[int, bytes]:
    """Send one of the requests with these fields besides its own, and return the response's status and body."""
    method, target, own, body = REQUESTS[name]
    sent = {"Host": f"{running.address[0]}:{running.address[1]}", **own, **fields, "Content-Length": str(len(body))}
    lines = [f"{method} {target} HTTP/1.1", *(f"{field}: {value}" for field, value in sent.items())]
    with connected(running) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        status, _, answer = read_response(connection, method)
        return status, answer


@pytest.mark.parametrize("page", PAGES)
def test_web_pages_are_refused(running: RunningService, page: str) -> None:
    """Nothing is served to a page of another origin, nor to one that has rebound its name to this machine."""
    running.simulator.clear()
    fields, status, code = PAGES[page]
    for name in REQUESTS:
        answered, body = send(running, name, fields)
        assert answered == status, name
        if not REQUESTS[name][1].startswith("/ocm/") or name in ("status", "usage"):
            assert json.loads(body)["error"]["code"] == code
    assert running.simulator.requests == []


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080"])
def test_this_machine_is_served(running: RunningService, host: str) -> None:
    """Every name of this machine works, for Codex as for a browser that the user has opened."""
    for name, expected in {"turn": 200, "models": 200, "websocket": 101, "overview": 200, "metrics": 200}.items():
        assert send(running, name, {"Host": host})[0] == expected
        if name != "websocket":
            assert send(running, name, {"Host": host, "Sec-Fetch-Site": "none"})[0] == expected
            assert send(running, name, {"Host": host, "Origin": f"http://{host}"})[0] == expected


def test_health_is_served_to_all(running: RunningService) -> None:
    """A monitor may know the service by any name."""
    with connected(running) as connection:
        connection.sendall(b"GET /ocm/healthz HTTP/1.1\r\nHost: ocm.internal\r\n\r\n")
        assert read_response(connection, "GET")[0] == 200


def test_the_first_user_lifts_the_restriction(service: ServiceFactory) -> None:
    """With a user, a token is required from everyone, and a browser sends none for other pages."""
    running = service(users={}, workers=1)
    with closing(Database(f"sqlite:///{running.settled_database()}")) as database:
        Accounts((), database).add(User("ann"), actor="test")
    for fields, _, _ in PAGES.values():
        assert send(running, "models", fields)[0] == 401
