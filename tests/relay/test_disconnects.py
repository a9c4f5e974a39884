"""Stalled clients are disconnected at their deadline and all they held is freed; the deadlines are shortened."""

from __future__ import annotations

import os
import re
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ocm_wsgi.simulator import Plan
from tests.api_requests import BODY, LENGTH, connected, head, post
from tests.conftest import RunningService, ServiceFactory
from tests.faults.stack import eventually, workers_of
from tests.relay.test_live import recorded
from tests.soak.resources import resources_of

CLIENTS = 100
DEADLINE_SECONDS = 3
#: How late a deadline may be noticed: the loop checks twice a second, and the machine may be busy.
LATE_SECONDS = 20
#: Shortens the deadlines wherever the package defines them.
CONFIGURATION = f"""
import dataclasses, sys
exec(compile(open("gunicorn.conf.py").read(), "gunicorn.conf.py", "exec"))
from ocm_wsgi.server import worker
for module in [module for name, module in sys.modules.items() if name.startswith("ocm_wsgi")]:
    for name, value in list(vars(module).items()):
        if name in ("HEAD_SECONDS", "BLOCK_SECONDS"):
            setattr(module, name, {DEADLINE_SECONDS})
        elif isinstance(value, worker.Timeouts):
            setattr(module, name, dataclasses.replace(value, stall_seconds={DEADLINE_SECONDS}))
"""
INCOMPLETE_REQUESTS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"POST /v1/resp", id="half-a-line"),
    pytest.param(head(**LENGTH)[:-2], id="half-a-head"),
    pytest.param(head(**LENGTH) + BODY[:5], id="half-a-body"),
]


@pytest.fixture
def running(service: ServiceFactory, tmp_path: Path) -> RunningService:
    """A service with short deadlines, whose one worker has served a request."""
    path = tmp_path / "short.conf.py"
    path.write_text(CONFIGURATION)
    # One user may not wait with half of the threads for upstream, so that there must be twice as many as clients.
    threads = str(2 * CLIENTS + 1)
    running = service(workers=1, arguments=("--config", str(path), "--threads", threads))
    assert post(running).status_code == 200
    return running


@contextmanager
def stalled_clients(running: RunningService, data: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that send the given data and then nothing more."""
    with ExitStack() as connections:
        clients = [connections.enter_context(connected(running)) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(data)
        yield clients


def are_disconnected(running: RunningService) -> bool:
    """Return whether the worker holds no more connections to clients."""
    (worker,) = workers_of(running)
    port, upstream_port = (int(url.rpartition(":")[2]) for url in (running.url, running.simulator.url))
    return resources_of(worker, port=port, upstream_port=upstream_port).clients == 0


@pytest.mark.parametrize("data", INCOMPLETE_REQUESTS)
def test_incomplete_requests_are_dropped_at_their_deadline(running: RunningService, data: bytes) -> None:
    """100 clients that never finish their request are disconnected on time, not earlier; others are served."""
    began = time.monotonic()
    with stalled_clients(running, data):
        assert post(running).status_code == 200
        assert eventually(lambda: are_disconnected(running), seconds=DEADLINE_SECONDS + LATE_SECONDS)
        assert time.monotonic() - began > DEADLINE_SECONDS - 1
    assert post(running).status_code == 200
    assert len(running.simulator.requests) == 3


def test_clients_that_read_nothing_are_disconnected_at_their_deadline(running: RunningService) -> None:
    """100 clients that do not read a long response are disconnected, upstream too, and recorded as cut."""
    running.simulator.plan(Plan(events=100, event_bytes=65536, silence_after=90), times=CLIENTS)
    with stalled_clients(running, head(**LENGTH) + BODY):
        assert running.simulator.wait_for(lambda: len(running.simulator.requests) == CLIENTS + 1, timeout=60)
        assert post(running).status_code == 200
        assert eventually(lambda: are_disconnected(running), seconds=60)
        assert running.simulator.wait_for(lambda: running.simulator.open_streams == 0)
        assert eventually(lambda: recorded(running) == Counter(cut=CLIENTS, completed=2))


def test_worker_out_of_descriptors_recovers(service: ServiceFactory) -> None:
    """A worker that is out of file descriptors logs it, survives, and accepts again when some are free."""
    running = service(workers=1)
    assert post(running).status_code == 200
    (worker,) = workers_of(running)
    _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{worker}/fd")) + 20, hard))
    with stalled_clients(running, b""):
        assert eventually(lambda: "Cannot accept a connection: [Errno 24]" in running.log_text())
    assert post(running).status_code == 200
    assert workers_of(running) == [worker]


def test_descriptor_table_is_preallocated(service: ServiceFactory) -> None:
    """The kernel never has to grow the table under traffic, which would block all threads of the worker."""
    running = service(workers=1)
    assert post(running).status_code == 200
    (worker,) = workers_of(running)
    soft, _ = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    (size,) = re.findall(r"^FDSize:\s+(\d+)$", Path(f"/proc/{worker}/status").read_text(), re.MULTILINE)
    assert int(size) >= min(soft, 2 * 4096)
    assert len(os.listdir(f"/proc/{worker}/fd")) < 64


def test_full_worker_accepts_again(service: ServiceFactory) -> None:
    """Clients beyond ``worker_connections`` wait to be accepted until others disconnect."""
    running = service(workers=1, arguments=("--worker-connections", "140"))
    with stalled_clients(running, b""), stalled_clients(running, b""), connected(running) as client:
        client.sendall(head(**LENGTH) + BODY)
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.recv(1)
    assert post(running).status_code == 200
