"""``deploy/nginx.conf`` in a real nginx: what its lines are there for."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Gate, Plan, Simulator
from tests.clients.nginx import SERVER_NAME, Nginx, check_configuration, run_nginx
from tests.faults.stack import GONE_SECONDS

BEARER_TOKEN = "sk-ocm-alice-behind-nginx"
TURN = json.dumps({"model": "gpt-5.5", "stream": True, "input": "say hi"}).encode()
WAIT_SECONDS = 20.0


class Backend(ThreadingHTTPServer):
    """Stands where the service would, and remembers requests as nginx sent them."""

    daemon_threads = False  # none may outlive its test

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.request_lines: list[str] = []
        self.fields: list[tuple[str, str]] = []
        self.response_fields: dict[str, str] = {}

    def values(self, *names: str) -> dict[str, str]:
        """Return those of the named request fields that came."""
        wanted = {name.lower() for name in names}
        return {name.lower(): value for name, value in self.fields if name.lower() in wanted}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Backend

    def do_GET(self) -> None:
        self.server.request_lines.append(self.requestline)
        self.server.fields.extend(self.headers.items())
        self.send_response(200)
        for name, value in self.server.response_fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def backend() -> Iterator[Backend]:
    """Run a stand-in for the service."""
    with Backend() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def front(backend: Backend, start_nginx: Callable[[str], Nginx]) -> Nginx:
    """Return an nginx in front of the stand-in."""
    return start_nginx(f"127.0.0.1:{backend.server_port}")


def get(nginx: Nginx, target: str = "/", fields: dict[str, str] | None = None) -> tuple[HTTPResponse, bytes]:
    """Send one request through TLS; return the response, already closed, and its body."""
    with closing(nginx.connect()) as connection:
        connection.request("GET", target, headers=fields or {})
        with connection.getresponse() as response:
            return response, response.read()


def test_configuration_without_fault(front: Nginx, tmp_path: Path) -> None:
    """nginx accepts the file as it is delivered."""
    check = check_configuration(tmp_path / "nginx")
    assert "test is successful" in check.stderr
    assert check.returncode == 0


def test_forwarded_fields_forged(front: Nginx, backend: Backend) -> None:
    """What a client claims of its address, scheme, host and mount point does not arrive."""
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
    """A WebSocket handshake is passed on, no other upgrade is, and nothing asks to close."""
    get(front, fields=fields)
    assert backend.values("Connection", "Upgrade") == expected


@pytest.mark.parametrize("target", ["/v1//responses", "/v1/%2E/a%2fb?x=%20&y", "/v1/a/../b;c", "/v1/x?"])
def test_target_octet_for_octet(front: Nginx, backend: Backend, target: str) -> None:
    """The request target arrives as the client spelled it, so that the service judges what was really sent."""
    get(front, target)
    assert backend.request_lines == [f"GET {target} HTTP/1.1"]


def test_internal_redirect_refused(front: Nginx, backend: Backend) -> None:
    """A response cannot make nginx serve something else."""
    backend.response_fields = {"X-Accel-Redirect": "/elsewhere"}
    response, body = get(front)
    assert (response.status, body) == (200, b"ok")
    assert len(backend.request_lines) == 1


def test_long_field(front: Nginx, backend: Backend) -> None:
    """A long field, as a turn's metadata may be, passes."""
    metadata = {"x-codex-turn-metadata": "m" * 30_000}
    get(front, fields=metadata)
    assert backend.values(*metadata) == metadata


def test_response_fields(front: Nginx) -> None:
    """A browser is told to stay with TLS, and nobody which nginx this is."""
    response, _ = get(front)
    assert response.headers["Strict-Transport-Security"] == "max-age=63072000"
    assert response.headers["Server"] == "nginx"


def test_body_beyond_all_limits(front: Nginx) -> None:
    """A body that even the service would refuse gets 400 in OpenAI's error shape, before it is sent."""
    response, body = get(front, fields={"Content-Length": str(130 * 1024 * 1024)})
    assert (response.status, response.headers["Content-Type"]) == (400, "application/json")
    assert json.loads(body)["error"]["code"] == "body_too_large"


def test_plain_http_redirected(front: Nginx) -> None:
    """What comes in the clear is sent to the same place behind TLS."""
    with closing(HTTPConnection("127.0.0.1", front.http_port, timeout=WAIT_SECONDS)) as connection:
        connection.request("GET", "/ocm/?a=b", headers={"Host": SERVER_NAME})
        with connection.getresponse() as response:
            assert (response.status, response.headers["Location"]) == (301, f"https://{SERVER_NAME}/ocm/?a=b")


@pytest.mark.parametrize("target", ["/metrics", "/%6detrics", "//metrics", "/v1/../metrics", "/metrics?x"])
def test_metrics_shut(front: Nginx, backend: Backend, target: str) -> None:
    """From outside there are no metrics, however they are spelled."""
    assert get(front, target)[0].status == 404
    assert backend.request_lines == []


def test_unknown_name_in_the_handshake(front: Nginx) -> None:
    """Who asks for another name, or for none, gets no certificate."""
    for name in ("other.example", None):
        front.tls.check_hostname = False
        with (
            socket.create_connection(("127.0.0.1", front.https_port), timeout=WAIT_SECONDS) as plain,
            pytest.raises(ssl.SSLError),
        ):
            front.tls.wrap_socket(plain, server_hostname=name)


def answer_to(nginx: Nginx, request: bytes, *, is_secure: bool = True) -> bytes:
    """Send octets, return the status line, or nothing where the connection is just closed."""
    port = nginx.https_port if is_secure else nginx.http_port
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as plain:
        connection = nginx.tls.wrap_socket(plain, server_hostname=SERVER_NAME) if is_secure else plain
        with connection:
            connection.sendall(request)
            return connection.recv(65536).partition(b"\r\n")[0]


@pytest.mark.parametrize("is_secure", [True, False])
def test_unknown_name_in_the_host_field(front: Nginx, backend: Backend, is_secure: bool) -> None:
    """A Host field with another name is not answered."""
    request = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"
    assert answer_to(front, request, is_secure=is_secure) in {b"", b"HTTP/1.1 421 Misdirected Request"}
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
    """A request that two parsers could end in different places goes no further."""
    request = (
        b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
    )
    assert answer_to(front, request).split(b" ")[1:2] in ([b"400"], [b"501"])
    assert backend.request_lines == []


def test_too_many_requests(backend: Backend, tmp_path: Path) -> None:
    """One address cannot keep everybody busy; it is told when to come again, in OpenAI's error shape."""
    # A busy machine may take 50 requests in no less than the second in which they are allowed.
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
    """A client that speaks HTTP/2 gets it."""
    front.tls.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", front.https_port), timeout=WAIT_SECONDS) as plain,
        front.tls.wrap_socket(plain, server_hostname=SERVER_NAME) as encrypted,
    ):
        assert encrypted.selected_alpn_protocol() == "h2"


@dataclass(frozen=True)
class Road:
    """The whole way: TLS, nginx, the service, the simulator."""

    nginx: Nginx
    simulator: Simulator
    open_ends: ExitStack

    def post(self, body: bytes = TURN, **fields: str) -> HTTPResponse:
        """Send a turn; return the response as soon as its head is there."""
        connection = self.open_ends.enter_context(closing(self.nginx.connect()))
        usual = {
            "Authorization": f"Bearer {BEARER_TOKEN}",
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip",  # as a client would that likes what nginx must not do
        }
        connection.request("POST", "/v1/responses", body, usual | fields)
        return self.open_ends.enter_context(connection.getresponse())


@pytest.fixture
def road(service: Any, start_nginx: Callable[[str], Nginx]) -> Iterator[Road]:
    """Run all of it."""
    running = service(users={"alice": BEARER_TOKEN})
    with ExitStack() as open_ends:
        yield Road(start_nginx(running.url.removeprefix("http://")), running.simulator, open_ends)


def read_event(response: HTTPResponse) -> bytes:
    """Return the next event of a stream, with the blank line that ends it."""
    lines = iter(response.readline, b"\n")
    return b"".join(lines) + b"\n"


def test_stream_event_by_event(road: Road) -> None:
    """The first event is there before the second is sent, and all bytes are those that were sent."""
    gate = Gate().after(1)
    road.simulator.plan(Plan(gate=gate))
    response = road.post()
    first = read_event(response)
    assert b"response.created" in first
    gate.release()
    stream = first + response.read()
    assert b"response.completed" in stream
    assert hashlib.sha256(stream).hexdigest() == road.simulator.sent[-1].body_sha256


def test_stream_cut(road: Road) -> None:
    """A stream that upstream cuts does not look whole to the client."""
    road.simulator.plan(Plan(cut_after=2))
    with pytest.raises(IncompleteRead):
        road.post().read()


def test_client_leaves(road: Road) -> None:
    """When the client leaves, its request upstream ends within a second, although upstream is silent."""
    road.simulator.plan(Plan(silence_after=1))
    read_event(road.post())
    assert road.simulator.open_streams == 1
    road.open_ends.close()
    assert road.simulator.wait_for(lambda: road.simulator.open_streams == 0, GONE_SECONDS)


def test_underscored_fields_kept(road: Road) -> None:
    """The fields of older Codex clients reach upstream by the names they were sent with."""
    road.post(session_id="a", conversation_id="b").read()
    seen = road.simulator.requests[-1]
    assert (seen.field("session_id"), seen.field("conversation_id")) == ("a", "b")


def test_large_body(road: Road) -> None:
    """A body of 20 MB, as images make it, reaches upstream unchanged."""
    body = json.dumps({"model": "gpt-5.5", "stream": True, "input": os.urandom(10_000_000).hex()}).encode()
    road.post(body).read()
    assert road.simulator.requests[-1].body_sha256 == hashlib.sha256(body).hexdigest()
