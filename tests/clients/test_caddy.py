"""``deploy/Caddyfile`` in a real Caddy: the purpose of its lines."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ocm_wsgi.simulator import Gate, Plan, Simulator
from tests.clients.backend import Backend
from tests.clients.caddy import Caddy, program, run_caddy
from tests.clients.nginx import SERVER_NAME
from tests.conftest import REPOSITORY, start_service
from tests.faults.stack import GONE_SECONDS

BEARER_TOKEN = "sk-ocm-alice-behind-caddy"
TURN = json.dumps({"model": "gpt-5.5", "stream": True, "input": "say hi"}).encode()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Caddy, Simulator]]:
    """Run the simulator, the service and Caddy."""
    with (
        Simulator() as simulator,
        start_service(simulator, tmp_path_factory.mktemp("stack") / "s", users={"alice": BEARER_TOKEN}) as running,
        TemporaryDirectory() as folder,
        run_caddy(running.url.removeprefix("http://"), Path(folder)) as caddy,
    ):
        yield caddy, simulator


@pytest.fixture
def simulator(stack: tuple[Caddy, Simulator]) -> Simulator:
    """Return the simulator, without records of earlier tests."""
    stack[1].clear()
    return stack[1]


@pytest.fixture
def open_ends() -> Iterator[ExitStack]:
    """Return what closes the connections at the end of a test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def caddy(stack: tuple[Caddy, Simulator]) -> Caddy:
    """Return Caddy in front of the service."""
    return stack[0]


def post(caddy: Caddy, open_ends: ExitStack, **fields: str) -> HTTPResponse:
    """Send a turn; return the response as soon as its head has arrived."""
    connection = open_ends.enter_context(closing(caddy.connect()))
    usual = {"Authorization": f"Bearer {BEARER_TOKEN}", "Content-Type": "application/json", "Accept-Encoding": "gzip"}
    connection.request("POST", "/v1/responses", TURN, usual | fields)
    return open_ends.enter_context(connection.getresponse())


def test_configuration_is_valid_and_formatted() -> None:
    """Caddy's own formatter leaves the file as it is; that it is valid, the other tests show."""
    path = REPOSITORY / "deploy" / "Caddyfile"
    formatted = subprocess.run([program(), "fmt", str(path)], capture_output=True, text=True, check=False).stdout
    assert formatted == path.read_text()


def test_stream_event_by_event(caddy: Caddy, simulator: Simulator, open_ends: ExitStack) -> None:
    """The first event arrives before the second is sent, and all bytes are forwarded unchanged."""
    gate = Gate().after(1)
    simulator.plan(Plan(gate=gate))
    response = post(caddy, open_ends, session_id="a")
    first = b"".join(iter(response.readline, b"\n")) + b"\n"
    assert b"response.created" in first
    gate.release()
    stream = first + response.read()
    assert b"response.completed" in stream
    assert hashlib.sha256(stream).hexdigest() == simulator.sent[-1].body_sha256
    assert simulator.requests[-1].field("session_id") == "a"
    assert response.getheader("Strict-Transport-Security") == "max-age=63072000"


def test_truncated_stream(caddy: Caddy, simulator: Simulator, open_ends: ExitStack) -> None:
    """A stream that upstream cuts off arrives as far as it came, and without its last event."""
    simulator.plan(Plan(cut_after=2))
    try:
        received = post(caddy, open_ends).read()
    except IncompleteRead as exc:  # Caddy 2.6 ends it as if it were complete.
        received = exc.partial
    assert b"response.created" in received
    assert b"response.completed" not in received


def test_client_disconnects(caddy: Caddy, simulator: Simulator, open_ends: ExitStack) -> None:
    """When the client disconnects, its upstream request ends, although upstream is silent."""
    simulator.plan(Plan(silence_after=1))
    response = post(caddy, open_ends)
    assert response.readline()
    assert simulator.open_streams == 1
    open_ends.close()
    assert simulator.wait_for(lambda: simulator.open_streams == 0, GONE_SECONDS)


def test_metrics_blocked(caddy: Caddy) -> None:
    """The metrics cannot be reached through Caddy; everything else can."""
    for target, status in (("/metrics", 404), ("/ocm/healthz", 200)):
        with closing(caddy.connect()) as connection:
            connection.request("GET", target)
            assert connection.getresponse().status == status


def test_forwarded_fields_forged(backend: Backend) -> None:
    """A client's claims about its address, scheme, host and mount point are removed."""
    backend.clear()
    names = ["Forwarded", "X-Real-IP"]
    names += [f"X-Forwarded-{name}" for name in ("For", "Proto", "Host", "Port", "Prefix", "Protocol", "Ssl")]
    with (
        TemporaryDirectory() as folder,
        run_caddy(f"127.0.0.1:{backend.server_port}", Path(folder)) as caddy,
        closing(caddy.connect()) as connection,
    ):
        connection.request("GET", "/", headers=dict.fromkeys(names, "forged"))
        connection.getresponse().read()
    arrived = backend.values("Host", *names)
    assert "forged" not in arrived.values()
    assert arrived["x-forwarded-proto"] == "https"
    assert arrived["x-forwarded-host"] == arrived["host"] == f"{SERVER_NAME}:{caddy.port}"
