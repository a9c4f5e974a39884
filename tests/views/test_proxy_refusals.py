"""Requests that the API refuses before OpenAI is contacted."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from ocm_wsgi.simulator import PRIVATE_MARKER
from tests.api_requests import (
    TURN,
    connected,
    error_of,
    exchange,
    head,
    post,
    read_response,
)
from tests.conftest import ALICE, RunningService, ServiceFactory


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ("", "invalid_bearer_token"),
        ("Authorization: Bearer sk-ocm-unknown\r\n", "invalid_bearer_token"),
        ("Authorization: Basic YTpi\r\n", "invalid_bearer_token"),
        (f"Authorization: Bearer {ALICE}x\r\n", "invalid_bearer_token"),
    ],
)
def test_unauthenticated(running: RunningService, fields: str, code: str) -> None:
    """Without a valid token nothing is sent upstream, and the response has a challenge."""
    request = f"GET /v1/models HTTP/1.1\r\nHost: ocm\r\n{fields}\r\n".encode()
    status, response_fields, body = exchange(running, request)
    assert status == 401
    assert response_fields["www-authenticate"].startswith("Bearer")
    assert error_of(body)["type"] == "authentication_error"
    assert error_of(body)["code"] == code
    assert b"sk-ocm" not in body
    assert running.simulator.requests == []


@pytest.mark.parametrize(
    ("request_head", "status", "code"),
    [
        (head("GET", "/v1/%2e%2e/conversations"), 400, "invalid_target"),
        (head("GET", "/v1/../conversations"), 400, "invalid_target"),
        (head("GET", "/v1//conversations"), 400, "invalid_target"),
        (head("GET", "/v1/..%5cconversations"), 400, "invalid_target"),
        (head("GET", "http://evil.example/v1/models"), 400, "invalid_target"),
        (head("GET", "/backend-api/conversations"), 404, "not_found"),
        (head("GET", "/"), 404, "not_found"),
        (head("GET", "/v1/"), 404, "not_found"),
        (head("GET", "/v1/models", **{"X-Api-Key": "x"}), 400, None),
        (head("POST", "/v1/chat/completions", **{"Content-Length": 0}), 400, "endpoint_unavailable"),
        (head("POST", **{"Content-Length": 2**28}), 400, "body_too_large"),
        (
            head(
                "GET",
                "/v1/models",
                Connection="Upgrade",
                Upgrade="websocket",
                **{"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": 13},
            ),
            426,
            "websocket_unavailable",
        ),
    ],
)
def test_refused_before_upstream_is_contacted(
    running: RunningService, request_head: bytes, status: int, code: str
) -> None:
    """A request that cannot be served gets an error in OpenAI's format and is never sent upstream."""
    answered, fields, body = exchange(running, request_head)
    assert answered == status
    assert fields["content-type"] == "application/json"
    assert error_of(body)["code"] == code
    assert running.simulator.requests == []


DOTS = ["..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "%c0%ae%c0%ae", "..;", "..%00", "%u002e%u002e"]
SLASHES = ["/", "%2f", "%5c", "\\", "//", "/./", "%c0%af", "%252f", ";/"]


def test_no_spelling_reaches_private_paths(running: RunningService) -> None:
    """The credential also opens the owner's conversations, which no target reaches."""
    targets = [
        shape.format(d=dots, s=slash)
        for dots in DOTS
        for slash in SLASHES
        for shape in ("/v1/{d}{s}conversations", "/v1/x{s}{d}{s}{d}{s}conversations", "/v1{s}{d}{s}conversations")
    ]
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda target: exchange(running, head("GET", target)), targets))
    assert {status for status, _, _ in responses} <= {400, 404}
    assert not any(PRIVATE_MARKER.encode() in body for _, _, body in responses)
    assert running.simulator.requests == []


def test_a_truncated_upload_never_reaches_upstream(running: RunningService) -> None:
    """If a client disconnects in the middle of its body, nothing is sent upstream."""
    with connected(running) as connection:
        connection.sendall(head(**{"Content-Length": 10}) + b"12345")
        connection.shutdown(socket.SHUT_WR)
        status, _, body = read_response(connection)
    assert status == 400
    assert error_of(body)["code"] == "body_truncated"
    assert running.simulator.requests == []


def test_a_truncated_chunked_upload_never_reaches_upstream(running: RunningService) -> None:
    """If a client disconnects in the middle of a chunked body, nothing is sent upstream."""
    with connected(running) as connection:
        connection.sendall(head(**{"Transfer-Encoding": "chunked"}) + b"5\r\n12345\r\n")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)
    assert running.simulator.requests == []


def test_without_users_everyone_is_served(service: ServiceFactory) -> None:
    """Without users there is no authentication, and a token is ignored."""
    running = service(users={}, workers=1)
    assert requests.post(f"{running.url}/v1/responses", json=TURN, timeout=20).status_code == 200
    assert post(running, token="whatever").status_code == 200


def test_methods_that_are_not_in_the_table_are_refused(running: RunningService) -> None:
    """A path that exists says which methods it has; upstream never sees another, be it TRACE or an unknown one."""
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "QUERY"):
        status, fields, body = exchange(running, head(method, "/v1/models"))
        assert (status, fields["allow"]) == (405, "GET, HEAD")
        assert error_of(body)["code"] == "method_not_supported"
    assert running.simulator.requests == []
