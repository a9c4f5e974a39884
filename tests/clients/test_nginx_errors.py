"""``deploy/nginx.conf`` in a real nginx: TLS, limits of size, and the errors that nginx itself responds with."""

from __future__ import annotations

import json
import re
import socket
import ssl
import warnings
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPResponse
from typing import Any

import pytest

from tests.clients.backend import Backend
from tests.clients.nginx import CONFIGURATION, SERVER_NAME, Nginx, run_nginx
from tests.clients.test_nginx import WAIT_SECONDS

HSTS = "max-age=63072000"
#: The service relays response heads of up to 64 KiB and adds some fields of its own.
HEAD = {f"X-{number}": "v" * 1000 for number in range(64)} | {"X-Last": "v" * 1536}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Run nginx in front of a service that is down."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with run_nginx(f"127.0.0.1:{reserved.getsockname()[1]}", tmp_path_factory.mktemp("nginx")) as nginx:
            yield nginx


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Run nginx in front of a service that accepts connections and is silent."""
    edits = {"proxy_read_timeout 3600s;": "proxy_read_timeout 100ms;"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        upstream = f"127.0.0.1:{silent.getsockname()[1]}"
        with run_nginx(upstream, tmp_path_factory.mktemp("nginx"), edits=edits) as nginx:
            yield nginx


def send(nginx: Nginx, request: bytes) -> tuple[HTTPResponse, bytes]:
    """Send raw bytes through TLS; return the response and its body."""
    with (
        socket.create_connection(("127.0.0.1", nginx.https_port), timeout=WAIT_SECONDS) as plain,
        nginx.tls.wrap_socket(plain, server_hostname=SERVER_NAME) as connection,
    ):
        connection.sendall(request)
        with closing(HTTPResponse(connection)) as response:
            response.begin()
            return response, response.read()


def head(target: str = "/v1/models", method: str = "GET", **fields: Any) -> bytes:
    """Return a request's head."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {SERVER_NAME}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("where", "request_bytes", "status", "code"),
    [
        pytest.param("front", b"GET\r\n\r\n", 400, "malformed_request", id="no-target"),
        pytest.param("front", b"G\0T / HTTP/1.1\r\n\r\n", 400, "malformed_request", id="garbage"),
        pytest.param("front", b"GET / HTTP/1.1\r\n\r\n", 400, "malformed_request", id="no-host"),
        pytest.param("front", head(Content_Length="-1"), 400, "malformed_request", id="length"),
        pytest.param("front", head(X="x" * 40_000), 400, "fields_too_large", id="one-field"),
        pytest.param("front", head(**{f"X{n}": "x" * 30_000 for n in range(5)}), 400, "fields_too_large", id="fields"),
        pytest.param("front", head("/v1/" + "x" * 40_000), 400, "target_too_long", id="target"),
        pytest.param("front", head(method="POST", Content_Length=136_000_000), 400, "body_too_large", id="body"),
        pytest.param("front", head("/ocm/a", "POST", Content_Length=65_537), 400, "body_too_large", id="form"),
        pytest.param("front", head("//ocm/./a", "POST", Content_Length=65_537), 400, "body_too_large", id="form-again"),
        pytest.param("front", head("/metrics"), 404, "not_found", id="metrics"),
        pytest.param("front", head("/nginx-error/requests"), 404, "not_found", id="internal"),
        pytest.param("front", head(method="TRACE"), 405, "method_not_allowed", id="trace"),
        pytest.param("front", head(Transfer_Encoding="xchunked"), 501, "proxy_failed", id="coding"),
        pytest.param("alone", head(), 502, "service_unreachable", id="down"),
        pytest.param("impatient", head(), 504, "service_timeout", id="silent"),
    ],
)
def test_errors_of_nginx(
    request: pytest.FixtureRequest, backend: Backend, where: str, request_bytes: bytes, status: int, code: str
) -> None:
    """What nginx refuses has OpenAI's error format, a status that fits, and the fields of every other response."""
    backend.clear()
    response, body = send(request.getfixturevalue(where), request_bytes)
    assert (response.status, response.headers["Content-Type"]) == (status, "application/json")
    error = json.loads(body)["error"]
    assert (error.keys(), error["code"]) == ({"type", "code", "message"}, code)
    assert error["message"].endswith(".")
    assert (response.headers["Strict-Transport-Security"], response.headers["Server"]) == (HSTS, "nginx")
    assert backend.request_lines == []


def test_a_small_form_passes(front: Nginx, backend: Backend) -> None:
    """A form of 64 KiB reaches the service."""
    response, _ = send(front, head("/ocm/sign-in", Content_Length=65_536) + b"x" * 65_536)
    assert (response.status, backend.request_lines[-1]) == (200, "GET /ocm/sign-in HTTP/1.1")


def test_large_response_head(front: Nginx, backend: Backend) -> None:
    """A response head of 64 KiB passes."""
    backend.response_fields.update(HEAD)
    response, body = send(front, head())
    backend.clear()
    assert (response.status, body) == (200, b"ok")
    assert {name: response.headers[name] for name in HEAD} == HEAD


@pytest.mark.parametrize(
    ("version", "is_offered"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
def test_versions_of_tls(front: Nginx, version: ssl.TLSVersion, is_offered: bool) -> None:
    """TLS 1.2 and 1.3 are offered, and nothing older."""
    context = front.own_tls()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", front.https_port), timeout=WAIT_SECONDS) as plain:
        if not is_offered:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(plain, server_hostname=SERVER_NAME)
            return
        with context.wrap_socket(plain, server_hostname=SERVER_NAME) as connection:
            assert connection.version() == version.name.replace("_", ".")


def test_default_server_decides_about_tls() -> None:
    """What the default server sets for TLS is what the other server sets."""
    default, main = re.findall(r"^server \{\n(.*?)^\}", CONFIGURATION.read_text(), re.MULTILINE | re.DOTALL)[:2]
    lines = re.findall(r"^ +ssl_(?!reject).*;", default, re.MULTILINE)
    assert len(lines) == 5
    assert [line for line in lines if line not in main] == []


@pytest.mark.parametrize(
    "request_bytes", [b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"]
)
@pytest.mark.parametrize("port", ["http_port", "https_port"])
def test_without_tls(front: Nginx, port: str, request_bytes: bytes) -> None:
    """Without TLS, no response reveals the version or has HSTS, which browsers would ignore; the TLS port says so."""
    with socket.create_connection(("127.0.0.1", getattr(front, port)), timeout=WAIT_SECONDS) as plain:
        plain.sendall(request_bytes)
        received = b"".join(iter(lambda: plain.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 ")
    assert b"nginx/" not in received
    assert b"Strict-Transport-Security" not in received
    assert (b"tls_required" in received) == (port == "https_port" and b"Host" in request_bytes)
