"""Bodies that are large, encoded or cut off, and clients that leave."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import re
from pathlib import Path

import pytest

from ocm_wsgi.simulator import Plan
from tests.api_requests import (
    BODY,
    LENGTH,
    connected,
    head,
    post,
    read_response,
    receive_until,
)
from tests.conftest import RunningService, ServiceFactory
from tests.faults.stack import GONE_SECONDS


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
