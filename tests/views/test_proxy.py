"""The API as clients see it: the real gunicorn in front of the simulator."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from ocm_wsgi.simulator import PRIVATE_MARKER, Plan, Simulator
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory
from tests.faults.stack import GONE_SECONDS

TURN = {"model": "gpt-5.5", "stream": True, "input": "hi"}
BODY = json.dumps(TURN).encode()
LENGTH = {"Content-Length": len(BODY)}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests that leave no state behind."""
    from tests.conftest import start_service

    with Simulator() as simulator, start_service(simulator, tmp_path_factory.mktemp("shared") / "service") as running:
        yield running


@pytest.fixture
def running(shared: RunningService) -> RunningService:
    """The shared service, with the simulator's records cleared."""
    shared.simulator.clear()
    return shared


def post(
    running: RunningService, target: str = "/v1/responses", token: str = ALICE, **options: Any
) -> requests.Response:
    """Send a request that ignores the machine's proxy and netrc settings."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        if not {"json", "data"} & options.keys():
            options["json"] = TURN
        return session.post(running.url + target, headers=headers, timeout=30, **options)


@contextmanager
def connected(running: RunningService) -> Iterator[socket.socket]:
    """Open a plain TCP connection to the service."""
    with socket.create_connection(running.address, timeout=20) as connection:
        yield connection


def head(method: str = "POST", target: str = "/v1/responses", /, token: object = ALICE, **fields: object) -> bytes:
    """Return the exact bytes of a request head."""
    lines = [f"{method} {target} HTTP/1.1", "Host: ocm", f"Authorization: Bearer {token}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_response(connection: socket.socket, method: str = "POST") -> tuple[int, dict[str, str], bytes]:
    """Read one response and return its status, its fields with lowercase names, and its body."""
    with closing(http.client.HTTPResponse(connection, method=method)) as response:
        response.begin()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def receive_until(connection: socket.socket, marker: bytes) -> bytes:
    """Return what is received up to the marker, at least."""
    received = b""
    while marker not in received:
        piece = connection.recv(65536)
        assert piece, "the connection ended early"
        received += piece
    return received


def exchange(running: RunningService, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request and read its response."""
    with connected(running) as connection:
        connection.sendall(request)
        return read_response(connection, request.partition(b" ")[0].decode())


def error_of(body: bytes) -> dict[str, str]:
    """Return the error of an error response, and check its members."""
    content = json.loads(body)
    assert content.keys() == {"error"}
    assert content["error"].keys() == {"type", "code", "message"}
    error: dict[str, str] = content["error"]
    return error


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


def test_every_method_is_relayed(running: RunningService) -> None:
    """All methods are left to upstream, including unknown ones."""
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY"):
        running.simulator.plan(Plan(body=b"ok"))
        status, _, body = exchange(running, head(method, "/v1/models"))
        assert (status, body) == (200, b"ok")
    assert [seen.method for seen in running.simulator.requests][-2:] == ["PROPFIND", "QUERY"]


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


def resident_kib(pid: int) -> int:
    """Return the highest peak memory among the children of a process, in KiB."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    peaks = [re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{each}/status").read_text()) for each in children]
    return max(int(peak[1]) for peak in peaks if peak)


def test_a_large_upload_passes_in_bounded_memory(service: ServiceFactory) -> None:
    """24 MB are uploaded, chunked and with a length, and no worker holds them in memory."""
    running = service(workers=1)
    post(running)
    before = resident_kib(running.pid)
    running.simulator.plan(Plan(body=b"ok"), times=2)
    content = bytes(range(256)) * (24 * 4096)
    digest = hashlib.sha256(content).hexdigest()
    assert post(running, data=content).status_code == 200
    assert post(running, data=(content[at : at + 65536] for at in range(0, len(content), 65536))).status_code == 200
    uploads = running.simulator.requests[1:]
    assert [(seen.body_length, seen.body_sha256) for seen in uploads] == [(len(content), digest)] * 2
    assert [seen.field("content-length") for seen in uploads] == [str(len(content))] * 2
    assert resident_kib(running.pid) - before < 8 * 1024


def test_a_large_download_passes_in_bounded_memory(service: ServiceFactory) -> None:
    """48 MB are downloaded by a client that reads slowly, and no worker holds them in memory."""
    running = service(workers=1)
    post(running)
    before = resident_kib(running.pid)
    running.simulator.plan(Plan(body=bytes(48 * 2**20), framing="chunked", chunking="whole"))
    received = 0
    with connected(running) as connection:
        connection.sendall(head(Connection="close", **LENGTH) + BODY)
        while piece := connection.recv(4096):
            received += len(piece)
    assert received > 48 * 2**20
    assert resident_kib(running.pid) - before < 8 * 1024


def test_encoded_requests_are_relayed_unchanged(running: RunningService) -> None:
    """A compressed body stays compressed and keeps its Content-Encoding."""
    content = gzip.compress(b'{"model": "gpt-5.5"}')
    post(running, data=content, headers={"Content-Encoding": "gzip"})
    (seen,) = running.simulator.requests
    assert seen.body == content
    assert seen.field("content-encoding") == "gzip"


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


@pytest.mark.parametrize(
    "plan", [Plan(cut_after=3), Plan(cut_after=3, framing="length"), Plan(reset_after=3), Plan(bad_chunk=3)]
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_truncated_response_looks_truncated(running: RunningService, plan: Plan, version: str) -> None:
    """A client can tell a response that upstream cut off from a complete one, in HTTP/1.0 too."""
    running.simulator.plan(plan)
    request = head(**LENGTH).replace(b"HTTP/1.1", b"HTTP/" + version.encode()) + BODY
    with connected(running) as connection:
        connection.sendall(request)
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            read_response(connection)


@pytest.mark.parametrize("plan", [Plan(silence_before_status=True), Plan(silence_after=2)])
def test_disconnect_ends_the_upstream_request(running: RunningService, plan: Plan) -> None:
    """Upstream is disconnected within a second, even while it is silent."""
    running.simulator.plan(plan)
    simulator = running.simulator
    with connected(running) as connection:
        connection.sendall(head(**LENGTH) + BODY)
        assert simulator.wait_for(lambda: len(simulator.requests) == 1)
        if plan.silence_after:
            receive_until(connection, b"response.created")
        idle = simulator.open_connections - 1
    assert simulator.wait_for(lambda: simulator.open_connections <= idle, GONE_SECONDS)


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


@pytest.mark.parametrize(
    ("credential", "status", "expected_words"),
    [
        (None, 503, "credential"),
        ("{", 503, "credential"),
        ("[]", 503, "credential"),
        ('{"auth_mode": "bedrockApiKey"}', 400, "owner"),
    ],
)
def test_unusable_credential(service: ServiceFactory, credential: str | None, status: int, expected_words: str) -> None:
    """The service runs without a usable credential, and its errors name the cause."""
    running = service(credential=credential, workers=1)
    response = post(running)
    assert response.status_code == status
    assert expected_words in error_of(response.content)["message"]
    assert running.simulator.requests == []


def test_a_credential_that_appears_and_changes(service: ServiceFactory) -> None:
    """A credential is loaded when it appears, and each change takes effect at the next request."""
    running = service(credential=None)
    assert post(running).status_code == 503
    for account in ("acct-first", "acct-second"):
        fresh = running.credential_path.with_suffix(".new")
        fresh.write_text(json.dumps(running.simulator.credential(account=account)))
        fresh.replace(running.credential_path)
        for _ in range(4):
            assert post(running).status_code == 200
            assert running.simulator.requests[-1].field("chatgpt-account-id") == account
    running.credential_path.unlink()
    assert post(running).status_code == 503


def test_40_requests_over_4_workers_make_one_refresh(service: ServiceFactory, simulator: Simulator) -> None:
    """An expired access token is refreshed once, however many requests need it."""
    running = service(credential=simulator.credential(expires_in=-60), workers=4)
    with ThreadPoolExecutor(40) as pool:
        responses = list(pool.map(lambda _: post(running), range(40)))
    assert [response.status_code for response in responses] == [200] * 40
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]


def test_upstream_401_does_not_reach_the_client(service: ServiceFactory, simulator: Simulator) -> None:
    """A revoked access token is refreshed and the request is retried; the client notices nothing."""
    running = service()
    simulator.expire()
    assert post(running).status_code == 200
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]


def test_revoked_credential_needs_the_owner(service: ServiceFactory, simulator: Simulator) -> None:
    """If the credential cannot be refreshed, the error says that the owner must act, and is not a 401."""
    running = service()
    simulator.revoke_all()
    response = post(running)
    assert response.status_code == 400
    assert "owner" in error_of(response.content)["message"]


def test_unreachable_upstream(service: ServiceFactory, simulator: Simulator) -> None:
    """The client gets a 502 with one clear sentence, and the reason is logged."""
    running = service(workers=1)
    simulator.stop()
    response = post(running)
    assert response.status_code == 502
    assert error_of(response.content)["message"] == "OpenAI cannot be reached."
    assert "ConnectionRefusedError" in running.log_text() or "Connection refused" in running.log_text()


def test_without_users_everyone_is_served(service: ServiceFactory) -> None:
    """Without users there is no authentication, and a token is ignored."""
    running = service(users={}, workers=1)
    assert requests.post(f"{running.url}/v1/responses", json=TURN, timeout=20).status_code == 200
    assert post(running, token="whatever").status_code == 200


def test_no_token_is_logged_at_debug(service: ServiceFactory, simulator: Simulator) -> None:
    """Even at the debug level no token of a client or of the owner, old or new, is logged."""
    credential = simulator.credential(expires_in=-60)
    running = service(credential=credential, arguments=("--log-level", "debug"))
    post(running)
    post(running, token="sk-ocm-a-wrong-token-0123456789")
    post(running, target=f"/v1/models?key={BOB}")
    simulator.expire()
    post(running)
    post(running, headers={"X-Api-Key": BOB})
    simulator.plan(Plan(status_line_garbage=True))
    post(running)
    refreshed = json.loads(running.credential_path.read_text())
    assert running.stop() == 0
    log = running.log_text()
    assert "/v1/responses" in log
    assert "DEBUG" in log
    secrets = [ALICE, BOB, "sk-ocm-a-wrong-token"]
    for tokens in (credential["tokens"], refreshed["tokens"]):
        secrets += [tokens["access_token"], tokens["refresh_token"], tokens["id_token"]]
    assert [secret for secret in secrets if secret in log] == []


def test_one_log_line_per_request(service: ServiceFactory) -> None:
    """Each request is logged once, with its user, its target and how it ended."""
    running = service(workers=1)
    post(running)
    post(running, target="/v1/chat/completions")
    running.simulator.plan(Plan(cut_after=2))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        post(running)
    running.stop()
    lines = [line.partition("alice ")[2] for line in running.log_text().splitlines() if " alice " in line]
    patterns = [
        r"POST /v1/responses 200 \d+ B \d+\.\d{3} s first \d+\.\d{3} s gpt-5\.5 completed 1234\+56 tokens.*",
        r"POST /v1/chat/completions 400 \d+ B \d+\.\d{3} s \(endpoint_unavailable\)",
        r"POST /v1/responses 200 \d+ B \d+\.\d{3} s first \d+\.\d{3} s gpt-5\.5 cut.* \(upstream cut it: .+\)",
    ]
    # A line is written after its request, and the client may see the end slightly earlier: the order may differ.
    assert [sum(bool(re.fullmatch(pattern, line)) for line in lines) for pattern in patterns] == [1, 1, 1]
    assert len(lines) == 3
    assert "Traceback" not in running.log_text()


def test_open_streams_complete_on_term(service: ServiceFactory) -> None:
    """TERM lets an open stream complete."""
    running = service()
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with ThreadPoolExecutor(2) as pool:
        response = pool.submit(post, running)
        assert gate.reached.wait(30)
        stopped = pool.submit(running.stop)
        gate.release()
        assert "response.completed" in response.result().text
        assert stopped.result() == 0


@pytest.mark.parametrize("booted", [1, 2, 3, 4])
def test_stop_while_workers_start(service: ServiceFactory, booted: int) -> None:
    """TERM stops the service immediately even while workers are starting."""
    running = service(workers=4)
    deadline = time.monotonic() + 20
    while running.log_text().count("Booting worker") < booted:
        assert time.monotonic() < deadline
    stopping = time.monotonic()
    assert running.stop() == 0
    # A worker that misses the signal delays the stop by the grace period of two minutes.
    assert time.monotonic() - stopping < 20


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
