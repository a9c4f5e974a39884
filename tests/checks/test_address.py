"""``ocm check --url``: the public address with the real nginx in front, configured correctly and not."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from ocm_wsgi.checks.tickets import is_valid, ticket
from ocm_wsgi.simulator import Simulator
from tests.clients import nginx
from tests.clients.nginx import run_nginx
from tests.conftest import RunningService, start_service

ADDRESS_CODES = {"certificate", "authentication", "underscores", "websocket", "body", "unbuffered", "silence"}


@contextmanager
def in_front(running: Any, folder: Path, replaced: tuple[str, str] | None = None) -> Iterator[Any]:
    """Run nginx in front of a service, with one line of deploy/nginx.conf replaced."""
    folder.mkdir()
    configuration = nginx.CONFIGURATION
    if replaced is not None:
        text = configuration.read_text()
        assert re.search(replaced[0], text)
        spoiled = folder / "spoiled.conf"
        spoiled.write_text(re.sub(replaced[0], replaced[1], text))
        nginx.CONFIGURATION = spoiled
    try:
        with run_nginx(":".join(map(str, running.address)), folder) as server:
            yield server
    finally:
        nginx.CONFIGURATION = configuration


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests that leave no state behind."""
    folder = tmp_path_factory.mktemp("shared") / "service"
    with Simulator() as simulator, start_service(simulator, folder, workers=1) as running:
        yield running


@pytest.fixture
def checked(owner: Any, service: Any, shared: RunningService, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that checks a service behind nginx: the shared one, or with options one of its own."""
    with ExitStack() as running_servers:

        def check(*, replaced: tuple[str, str] | None = None, silence: int = 0, **options: Any) -> Any:
            running = service(workers=1, **options) if options else shared
            folder = tmp_path / "nginx"
            server = running_servers.enter_context(in_front(running, folder, replaced))
            authority = tmp_path / "authority.pem"
            authority.write_bytes(b"".join(_roots(server)))
            return owner.check(
                "--url",
                f"https://localhost:{server.https_port}",
                "--silence",
                str(silence),
                OCM_CONFIG=str(running.folder / "ocm.json"),
                SSL_CERT_FILE=str(authority),
            )

        yield check


def _roots(server: Any) -> list[bytes]:
    return [ssl.DER_cert_to_PEM_cert(root).encode() for root in server.tls.get_ca_certs(binary_form=True)]


def test_address_is_sound(checked: Any) -> None:
    """With deploy/nginx.conf unchanged, every check passes."""
    report = checked(silence=1)
    found = {each["code"]: each["level"] for each in report.findings if each["subject"] == "address"}
    assert set(found) == ADDRESS_CODES, report.output
    # The test's certificate is valid for long enough too.
    assert set(found.values()) == {"ok"}, report.output


@pytest.mark.parametrize(
    ("replaced", "code", "level"),
    [
        pytest.param(("underscores_in_headers on;", ""), "underscores", "problem", id="underscores"),
        pytest.param(("client_max_body_size 129m;", ""), "body", "problem", id="body"),
        pytest.param(("proxy_buffering off;", ""), "buffered", "problem", id="buffering"),
        pytest.param(("proxy_http_version 1.1;", ""), "http_1_0", "problem", id="http-1.0"),
        pytest.param(("proxy_set_header Upgrade .*;", 'proxy_set_header Upgrade "";'), "websocket", "warning", id="ws"),
        pytest.param(("X-Forwarded-For .*;", "X-Forwarded-For $http_x_forwarded_for;"), "forged", "warning", id="xff"),
        pytest.param(("proxy_read_timeout 3600s;", "proxy_read_timeout 2s;"), "silence", "problem", id="silence"),
    ],
)
def test_fault_in_nginx_is_found(checked: Any, replaced: tuple[str, str], code: str, level: str) -> None:
    """Each line of nginx.conf that Codex depends on is reported if it is missing."""
    report = checked(replaced=replaced, silence=4 if code == "silence" else 0)
    assert report.level("address", code) == level, report.output


def test_open_service(checked: Any) -> None:
    """A service without users is a problem at a public address."""
    report = checked(users={})
    assert report.level("address", "open") == "problem"


def test_service_that_is_down(owner: Any, service: Any, tmp_path: Path) -> None:
    """nginx without the service behind it is reported."""
    running = service(workers=1)
    requests.get(running.url, timeout=20)
    running.stop()
    with in_front(running, tmp_path / "nginx") as server:
        authority = tmp_path / "authority.pem"
        authority.write_bytes(b"".join(_roots(server)))
        url = f"https://localhost:{server.https_port}"
        report = owner.check("--url", url, "--silence", "0", SSL_CERT_FILE=str(authority))
    assert report.level("address", "stopped") == "problem", report.output
    assert report.level("address", "not_checked") == "warning"


def test_untrusted_certificate(owner: Any, shared: RunningService, tmp_path: Path) -> None:
    """A certificate of an unknown authority is reported and ends the check of the address."""
    with in_front(shared, tmp_path / "nginx") as server:
        report = owner.check("--url", f"https://localhost:{server.https_port}")
    assert report.level("address", "certificate") == "problem"
    assert report.status == 1


def test_nothing_listening(owner: Any) -> None:
    """An address at which nothing listens is reported."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    report = owner.check("--url", f"http://127.0.0.1:{port}")
    assert report.level("address", "unreachable") == "problem"


@pytest.mark.parametrize("url", ["ocm.example.org", "ftp://ocm.example.org", "https://"])
def test_invalid_url(owner: Any, url: str) -> None:
    """A value that is not a URL is a usage error."""
    report = owner.check("--url", url)
    assert (report.status, report.output) == (2, "")
    assert "https://ocm.example.org" in report.errors


def test_state_of_another_service(owner: Any, shared: RunningService) -> None:
    """If the service does not know the ticket, the remaining checks are skipped with a warning that says why."""
    report = owner.check("--url", shared.url, "--silence", "0")
    assert report.level("address", "authentication") == "ok"
    assert report.level("address", "not_checked") == "warning"


def test_views_need_a_ticket(shared: RunningService) -> None:
    """Without a valid ticket, the check endpoints do not exist, neither for strangers nor for users."""
    shared.simulator.clear()
    for authorization in (None, "Bearer sk-ocm-alice-0123456789abcdef", "Bearer check-none", "Basic eA=="):
        fields = {} if authorization is None else {"Authorization": authorization}
        for method, target in (("GET", "fields"), ("POST", "body"), ("GET", "stream"), ("GET", "websocket")):
            response = requests.request(method, f"{shared.url}/ocm/v1/check/{target}", headers=fields, timeout=10)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert shared.simulator.requests == []


def test_ticket(tmp_path: Path) -> None:
    """A ticket is valid within its context, for 15 minutes at most, and leaves nothing behind."""
    state_path = tmp_path / "state"
    state_path.mkdir()
    with ticket(state_path) as text:
        assert is_valid(state_path, text)
        assert not is_valid(state_path, text + "x")
        [path] = state_path.iterdir()
        assert text not in path.name
        os.utime(path, (path.stat().st_mtime - 901,) * 2)
        assert not is_valid(state_path, text)
    assert not is_valid(state_path, text)
    assert list(state_path.iterdir()) == []
