"""The API as clients see it: the real gunicorn in front of the simulator."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from ocm_wsgi.simulator import Plan, Simulator
from tests.api_requests import (
    BODY,
    LENGTH,
    connected,
    exchange,
    head,
    post,
    read_response,
    receive_until,
)
from tests.conftest import ALICE, BOB, RunningService


@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("chunking", ["event", "byte", 11])
def test_the_client_gets_the_bytes_that_upstream_sent(
    running: RunningService, framing: str, chunking: str | int, encoding: str | None
) -> None:
    """With any framing, chunking and encoding the body arrives unchanged, with the fields that describe it."""
    running.simulator.plan(Plan(framing=framing, chunking=chunking, encoding=encoding, events=12))
    status, fields, body = exchange(running, head(**LENGTH) + BODY)
    assert status == 200
    assert hashlib.sha256(body).hexdigest() == running.simulator.sent[-1].body_sha256
    assert fields.get("content-encoding") == encoding
    assert "set-cookie" not in fields


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_the_first_event_arrives_before_the_second_is_sent(running: RunningService, framing: str) -> None:
    """Each event is relayed as soon as it arrives."""
    gate = running.simulator.gate().after(1)
    running.simulator.plan(Plan(gate=gate, framing=framing))
    with connected(running) as connection:
        connection.sendall(head(**LENGTH) + BODY)
        assert b"response.completed" not in receive_until(connection, b"response.created")
        gate.release()
        receive_until(connection, b"response.completed")


def test_the_request_reaches_upstream_exactly(running: RunningService) -> None:
    """Underscores and near-duplicates are kept, nothing is added, and no personal field is relayed."""
    request = head(
        "POST",
        "/v1/responses?a=%2f..%2F&B[]={}&",
        **{
            "session_id": "s-1",
            "conversation_id": "c-1",
            "session-id": "s-2",
            "thread_id": "t-1",
            "OpenAI-Organization": "org-thief",
            "OpenAI-Project": "proj-thief",
            "X-Forwarded-For": "10.1.2.3",
            "CF-Connecting-IP": "10.1.2.3",
            "Cookie": "a=b",
            "ChatGPT-Account-Id": "acct-thief",
            "Connection": "keep-alive, x-hop",
            "X-Hop": "1",
            "Expect": "100-continue",
            **LENGTH,
        },
    )
    exchange(running, request + BODY)
    (seen,) = running.simulator.requests
    assert seen.target == "/backend-api/codex/responses?a=%2f..%2F&B[]={}&"
    assert [name for name, _ in seen.fields] == [
        "host",
        "session_id",
        "conversation_id",
        "session-id",
        "thread_id",
        "authorization",
        "chatgpt-account-id",
        "content-length",
    ]
    assert seen.field("chatgpt-account-id") == "acct-owner"
    assert ALICE not in str(seen.fields)


def test_two_users_share_no_cookie(running: RunningService) -> None:
    """Upstream's cookies are neither relayed to clients nor sent back."""
    running.simulator.plan(Plan(set_cookie=["session=alice"]), times=4)
    responses = [post(running, token=token) for token in (ALICE, BOB) * 4]
    assert all(response.status_code == 200 for response in responses)
    assert not any(response.cookies for response in responses)
    assert not any(seen.field("cookie") for seen in running.simulator.requests)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_bodiless_responses_leak_nothing(running: RunningService, method: str, status: int) -> None:
    """HEAD, 204 and 304 have fields and no body, and their upstream connections return to the pool."""
    for _ in range(12):
        running.simulator.plan(Plan(status=status, body=b"", fields=[("ETag", '"x"'), ("Content-Type", "a/b")]))
        answered, fields, body = exchange(running, head(method, "/v1/models"))
        assert (answered, body) == (status, b"")
        assert fields["etag"] == '"x"'
        assert fields["content-type"] == "a/b"
    assert len({seen.connection_id for seen in running.simulator.requests}) <= 4
    assert running.simulator.wait_for(lambda: running.simulator.open_streams == 0)


def test_upstream_errors_are_relayed_unchanged(running: RunningService) -> None:
    """A 429 reaches the client with its status, fields and body."""
    content = {"error": {"type": "usage_limit_reached", "resets_at": 2000000000, "plan_type": "plus"}}
    running.simulator.plan(
        Plan(status=429, json=content, fields=[("x-codex-active-limit", "codex"), ("X-Accel-Redirect", "/secret")])
    )
    response = post(running)
    assert response.status_code == 429
    assert response.json() == content
    assert response.headers["x-codex-active-limit"] == "codex"
    assert "x-accel-redirect" not in response.headers


def test_no_media_type_is_invented(running: RunningService) -> None:
    """No Content-Type is added to a response that has none, and a Location is left unchanged."""
    running.simulator.plan(Plan(status=302, body=b"x", no_content_type=True, fields=[("Location", "/a b?\xfc")]))
    status, fields, _ = exchange(running, head("GET", "/v1/models"))
    assert status == 302
    assert "content-type" not in fields
    assert fields["location"] == "/a b?\xfc"


def test_a_folded_field_does_not_break_the_response(running: RunningService) -> None:
    """Obsolete line folding in upstream's response is joined into one line."""
    running.simulator.plan(Plan(body=b"x", fields=[("X-Folded", "a\r\n b")]))
    status, fields, _ = exchange(running, head("GET", "/v1/models"))
    assert (status, fields["x-folded"]) == (200, "a b")


def test_a_connection_serves_many_requests(running: RunningService) -> None:
    """Keep-alive works after successful responses and after refusals."""
    with connected(running) as connection:
        for token, status in [(ALICE, 200), ("sk-ocm-none", 401), (BOB, 200), (ALICE, 200)]:
            # In one send: a refused request whose body arrives later closes its connection.
            connection.sendall(head(token=token, **LENGTH) + BODY)
            assert read_response(connection)[0] == status


def test_many_concurrent_streams(running: RunningService) -> None:
    """100 concurrent streams all complete, each with its own content."""
    released = running.simulator.gate().after(2)
    for number in range(100):
        running.simulator.plan(Plan(gate=released, text=f"answer <{number}>", events=5))
    with ThreadPoolExecutor(100) as pool:
        responses = [pool.submit(post, running) for _ in range(100)]
        assert running.simulator.wait_for(lambda: running.simulator.open_streams == 100, timeout=30)
        released.release()
        bodies = [response.result().text for response in responses]
    ended = {match[1] for body in bodies if (match := re.search(r'"text":\s*"answer <(\d+)', body))}
    assert ended == {str(number) for number in range(100)}
    assert all("response.completed" in body for body in bodies)


def test_other_wsgi_servers_work(simulator: Simulator, tmp_path: Path) -> None:
    """The application is portable WSGI: Werkzeug's own server streams its responses too."""
    from werkzeug.serving import make_server

    from ocm_wsgi.app import create_app
    from ocm_wsgi.config import load

    (tmp_path / "auth.json").write_text(json.dumps(simulator.credential()))
    environ = {
        "OCM_CREDENTIAL_PATH": str(tmp_path / "auth.json"),
        "OCM_STATE_PATH": str(tmp_path / "state"),
        "OCM_CHATGPT_BASE_URL": simulator.chatgpt_base_url,
        "OCM_AUTH_BASE_URL": simulator.auth_base_url,
        "HOME": str(tmp_path),
    }
    server = make_server("127.0.0.1", 0, create_app(load(environ=environ, cwd=tmp_path)), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)) as connection:
            connection.request("POST", "/v1/responses?a=%2f", BODY)
            body = connection.getresponse().read()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert hashlib.sha256(body).hexdigest() == simulator.sent[-1].body_sha256
    assert simulator.requests[0].target.endswith("/responses?a=%2f")
