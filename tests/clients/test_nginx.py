"""``deploy/nginx.conf`` in a real nginx: the purpose of its lines."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path

import pytest

from ocm_wsgi.simulator import Gate, Plan, Simulator
from tests.clients.backend import Backend
from tests.clients.nginx import SERVER_NAME, Nginx, check_configuration, run_nginx
from tests.conftest import start_service
from tests.faults.stack import GONE_SECONDS

BEARER_TOKEN = "sk-ocm-alice-behind-nginx"
TURN = json.dumps({"model": "gpt-5.5", "stream": True, "input": "say hi"}).encode()
WAIT_SECONDS = 20.0


@pytest.fixture(autouse=True)
def clean(backend: Backend) -> None:
    """Let the stand-in forget what earlier tests did."""
    backend.clear()


def get(nginx: Nginx, target: str = "/", fields: dict[str, str] | None = None) -> tuple[HTTPResponse, bytes]:
    """Send one request through TLS; return the response, already closed, and its body."""
    with closing(nginx.connect()) as connection:
        connection.request("GET", target, headers=fields or {})
        with connection.getresponse() as response:
            return response, response.read()


def test_configuration_is_valid(front: Nginx) -> None:
    """nginx accepts the file unchanged."""
    check = check_configuration(front.authority.parent)
    assert "test is successful" in check.stderr
    assert check.returncode == 0


def test_forwarded_fields_forged(front: Nginx, backend: Backend) -> None:
    """A client's claims about its address, scheme, host and mount point are removed."""
    names = ["Forwarded", "X-Real-IP", "SCRIPT_NAME", "PATH_INFO"]
    names += [f"X-Forwarded-{name}" for name in ("For", "Proto", "Host", "Port", "Prefix", "Protocol", "Ssl")]
    get(front, fields=dict.fromkeys(names, "forged"))
    assert backend.values("Host", *names) == {
        "host": SERVER_NAME,
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": SERVER_NAME,
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, {}, id="no-upgrade"),
        pytest.param({"Connection": "keep-alive"}, {}, id="keep-alive"),
        pytest.param(
            {"Connection": "Upgrade", "Upgrade": "websocket"},
            {"connection": "upgrade", "upgrade": "websocket"},
            id="websocket",
        ),
        pytest.param({"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}, {}, id="other-protocol"),
    ],
)
def test_upgrade_for_websockets_only(
    front: Nginx, backend: Backend, fields: dict[str, str], expected: dict[str, str]
) -> None:
    """A WebSocket handshake is forwarded, but no other upgrade, and no request asks to close."""
    get(front, fields=fields)
    assert backend.values("Connection", "Upgrade") == expected


@pytest.mark.parametrize("target", ["/v1//responses", "/v1/%2E/a%2fb?x=%20&y", "/v1/a/../b;c", "/v1/x?"])
def test_target_is_forwarded_unchanged(front: Nginx, backend: Backend, target: str) -> None:
    """The request target is forwarded byte for byte, so that the service validates what was really sent."""
    get(front, target)
    assert backend.request_lines == [f"GET {target} HTTP/1.1"]


def test_internal_redirect_refused(front: Nginx, backend: Backend) -> None:
    """A response cannot make nginx serve a file."""
    backend.response_fields = {"X-Accel-Redirect": "/elsewhere"}
    response, body = get(front)
    assert (response.status, body) == (200, b"ok")
    assert len(backend.request_lines) == 1


def test_long_field(front: Nginx, backend: Backend) -> None:
    """A long field, such as a turn's metadata, is forwarded."""
    metadata = {"x-codex-turn-metadata": "m" * 30_000}
    get(front, fields=metadata)
    assert backend.values(*metadata) == metadata


def test_response_fields(front: Nginx) -> None:
    """Browsers learn to use TLS only, and the nginx version is hidden."""
    response, _ = get(front)
    assert response.headers["Strict-Transport-Security"] == "max-age=63072000"
    assert response.headers["Server"] == "nginx"


def test_oversized_body(front: Nginx) -> None:
    """A body that the service would refuse gets 400 in OpenAI's error format, before it is sent."""
    response, body = get(front, fields={"Content-Length": str(130 * 1024 * 1024)})
    assert (response.status, response.headers["Content-Type"]) == (400, "application/json")
    assert json.loads(body)["error"]["code"] == "body_too_large"


def test_plain_http_redirected(front: Nginx) -> None:
    """Plain HTTP requests are redirected to the same URL with TLS."""
    with closing(HTTPConnection("127.0.0.1", front.http_port, timeout=WAIT_SECONDS)) as connection:
        connection.request("GET", "/ocm/?a=b", headers={"Host": SERVER_NAME})
        with connection.getresponse() as response:
            assert (response.status, response.headers["Location"]) == (301, f"https://{SERVER_NAME}/ocm/?a=b")


@pytest.mark.parametrize("target", ["/metrics", "/%6detrics", "//metrics", "/v1/../metrics", "/metrics?x"])
def test_metrics_blocked(front: Nginx, backend: Backend, target: str) -> None:
    """Metrics are not available from outside, however the path is spelled."""
    assert get(front, target)[0].status == 404
    assert backend.request_lines == []


def test_unknown_name_in_the_handshake(front: Nginx) -> None:
    """A client that names another host, or none, gets no certificate."""
    tls = front.own_tls()
    tls.check_hostname = False
    for name in ("other.example", None):
        with (
            socket.create_connection(("127.0.0.1", front.https_port), timeout=WAIT_SECONDS) as plain,
            pytest.raises(ssl.SSLError),
        ):
            tls.wrap_socket(plain, server_hostname=name)


def status_line_of(nginx: Nginx, request: bytes, *, is_secure: bool = True) -> bytes:
    """Send raw bytes; return the status line, or nothing if the connection is closed."""
    port = nginx.https_port if is_secure else nginx.http_port
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as plain:
        connection = nginx.tls.wrap_socket(plain, server_hostname=SERVER_NAME) if is_secure else plain
        with connection:
            connection.sendall(request)
            return connection.recv(65536).partition(b"\r\n")[0]


@pytest.mark.parametrize("is_secure", [True, False])
def test_unknown_name_in_the_host_field(front: Nginx, backend: Backend, is_secure: bool) -> None:
    """A request with another name in its Host field gets no response from the service."""
    request = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"
    assert status_line_of(front, request, is_secure=is_secure) in {b"", b"HTTP/1.1 421 Misdirected Request"}
    assert backend.request_lines == []


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"Content-Length: 4\r\nTransfer-Encoding: chunked", id="both-framings"),
        pytest.param(b"Content-Length: 4\r\nContent-Length: 5", id="two-lengths"),
        pytest.param(b"Content-Length: +4", id="signed-length"),
        pytest.param(b"Transfer-Encoding: xchunked", id="unknown-coding"),
        pytest.param(b"Transfer-Encoding: chunked, chunked", id="chunked-twice"),
        pytest.param(b"Host: localhost", id="two-hosts"),
        pytest.param(b"X-A: b\r\n Content-Length: 4\r\nBad Name: x", id="name-with-blank"),
    ],
)
def test_smuggling_refused(front: Nginx, backend: Backend, fields: bytes) -> None:
    """A request whose end two parsers could see in different places is not forwarded."""
    request = (
        b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
    )
    assert status_line_of(front, request).split(b" ")[1:2] in ([b"400"], [b"501"])
    assert backend.request_lines == []


def test_too_many_requests(backend: Backend, tmp_path: Path) -> None:
    """Requests from one address are limited; the error has OpenAI's format and says when to retry."""
    # A busy machine may need more than a second for the 50 requests that are allowed in it.
    slower = run_nginx(f"127.0.0.1:{backend.server_port}", tmp_path, edits={"rate=50r/s": "rate=1r/s"})
    with slower as front, closing(front.connect()) as connection:
        for _ in range(400):
            connection.request("GET", "/")
            with connection.getresponse() as response:
                body = response.read()
                if response.status != 200:
                    break
    assert (response.status, response.headers["Retry-After"]) == (429, "5")
    assert json.loads(body)["error"]["code"] == "too_many_requests"
    assert 200 <= len(backend.request_lines) < 400


def test_http2_offered(front: Nginx) -> None:
    """Clients that support HTTP/2 get it."""
    tls = front.own_tls()
    tls.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", front.https_port), timeout=WAIT_SECONDS) as plain,
        tls.wrap_socket(plain, server_hostname=SERVER_NAME) as encrypted,
    ):
        assert encrypted.selected_alpn_protocol() == "h2"


@dataclass(frozen=True)
class FullStack:
    """The whole stack: TLS, nginx, the service, the simulator."""

    nginx: Nginx
    simulator: Simulator
    open_ends: ExitStack

    def post(self, body: bytes = TURN, **fields: str) -> HTTPResponse:
        """Send a turn; return the response as soon as its head has arrived."""
        connection = self.open_ends.enter_context(closing(self.nginx.connect()))
        usual = {
            "Authorization": f"Bearer {BEARER_TOKEN}",
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip",  # nginx must not compress, even if a client accepts it
        }
        connection.request("POST", "/v1/responses", body, usual | fields)
        return self.open_ends.enter_context(connection.getresponse())


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nginx, Simulator]]:
    """Run the whole stack."""
    folder = tmp_path_factory.mktemp("stack")
    with (
        Simulator() as simulator,
        start_service(simulator, folder / "service", users={"alice": BEARER_TOKEN}) as running,
        run_nginx(running.url.removeprefix("http://"), folder) as nginx,
    ):
        yield nginx, simulator


@pytest.fixture
def full_stack(shared_stack: tuple[Nginx, Simulator]) -> Iterator[FullStack]:
    """Return the whole stack, without records of earlier tests."""
    nginx, simulator = shared_stack
    simulator.clear()
    with ExitStack() as open_ends:
        yield FullStack(nginx, simulator, open_ends)


def read_event(response: HTTPResponse) -> bytes:
    """Return the next event of a stream, including the blank line that ends it."""
    lines = iter(response.readline, b"\n")
    return b"".join(lines) + b"\n"


def test_stream_event_by_event(full_stack: FullStack) -> None:
    """The first event arrives before the second is sent, and all bytes are forwarded unchanged."""
    gate = Gate().after(1)
    full_stack.simulator.plan(Plan(gate=gate))
    response = full_stack.post()
    first = read_event(response)
    assert b"response.created" in first
    gate.release()
    stream = first + response.read()
    assert b"response.completed" in stream
    assert hashlib.sha256(stream).hexdigest() == full_stack.simulator.sent[-1].body_sha256


def test_truncated_stream(full_stack: FullStack) -> None:
    """A stream that upstream cuts off looks truncated to the client."""
    full_stack.simulator.plan(Plan(cut_after=2))
    with pytest.raises(IncompleteRead):
        full_stack.post().read()


def test_client_disconnects(full_stack: FullStack) -> None:
    """When the client disconnects, its upstream request ends within a second, although upstream is silent."""
    full_stack.simulator.plan(Plan(silence_after=1))
    read_event(full_stack.post())
    assert full_stack.simulator.open_streams == 1
    full_stack.open_ends.close()
    assert full_stack.simulator.wait_for(lambda: full_stack.simulator.open_streams == 0, GONE_SECONDS)


def test_underscored_fields_kept(full_stack: FullStack) -> None:
    """The fields of older Codex clients reach upstream under their original names."""
    full_stack.post(session_id="a", conversation_id="b", thread_id="c").read()
    seen = full_stack.simulator.requests[-1]
    assert [seen.field(name) for name in ("session_id", "conversation_id", "thread_id")] == ["a", "b", "c"]


def test_large_response_head(full_stack: FullStack) -> None:
    """A response head of nearly 64 KiB, the most that the service accepts of OpenAI, reaches the client."""
    fields = {f"x-{number}": "v" * 1000 for number in range(62)}
    full_stack.simulator.plan(Plan(fields=list(fields.items())))
    response = full_stack.post()
    assert response.status == 200
    assert {name: response.headers[name] for name in fields} == fields


def test_large_body(full_stack: FullStack) -> None:
    """A body of 20 MB, as with images, reaches upstream unchanged."""
    body = json.dumps({"model": "gpt-5.5", "stream": True, "input": os.urandom(10_000_000).hex()}).encode()
    full_stack.post(body).read()
    assert full_stack.simulator.requests[-1].body_sha256 == hashlib.sha256(body).hexdigest()
