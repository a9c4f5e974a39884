"""The benchmarks: runs measure complete streams and end cleanly, and the checks and counts of streams are correct.

No time is asserted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import chatmock, command, figures, litellm, sing_box, wire
from benchmarks.certificates import Certificate
from benchmarks.others import installed
from benchmarks.processes import ProcessTree
from benchmarks.responses import ChunkedBody, Damaged, Events, StreamedResponse
from benchmarks.rewritten import RewrittenResponse
from benchmarks.servers import Tunnels, Upstream
from ocm_wsgi.protocol.websocket.client_messages import read_message
from ocm_wsgi.protocol.websocket.frames import CLOSE, TEXT, FrameParser, close_of, server_text, unmask

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "benchmarks"]
STREAMS, SOCKETS, EVENTS = 2, 3, 12
SERVERS = ["direct", "nginx", "chatmock", "ocm-wsgi"]
OURS = ["direct", "nginx", "ocm-wsgi"]

PROXY = (sys.executable, REPOSITORY / "tests" / "rewriting_proxy.py")

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class QuickRun:
    """What a run printed and wrote."""

    output: str
    document: dict[str, Any]
    plot: Path


def chunked(*pieces: bytes) -> bytes:
    """Return a complete chunked body."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


EVENTS_SENT = [wire.SSE.event(number, 1_000 * number) for number in range(3)]
STREAM = STREAM_HEAD + chunked(*EVENTS_SENT, wire.SSE.completed)


def install(name: str, folder: Path, *command: object) -> Path:
    """Install a program that runs another command followed by its own arguments; return its path."""
    program = folder / name / "bin" / name
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nexec {} "$@"\n'.format(" ".join(f"'{part}'" for part in command)))
    program.chmod(0o755)
    metadata = folder / name / "lib" / "python3.10" / "site-packages" / f"{name}-7.8.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 7.8.9\n")
    return program


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> QuickRun:
    """Return a run with the service, and with one program that works and two that do not."""
    folder = tmp_path_factory.mktemp("quick")
    programs = {
        "--chatmock": install("chatmock", folder, *PROXY, "relay"),
        "--litellm": install("litellm", folder, *PROXY, "refuse"),
        "--sing-box": install("sing-box", folder, "false"),
    }
    sizes = {"--connections": 1, "--streams": STREAMS, "--sockets": SOCKETS, "--arrivals": 20, "--events": EVENTS}
    files = {"--json": folder / "found.json", "--svg": folder / "plot.svg"}
    options = [str(word) for option in {**programs, **sizes, **files, "--rate": 50}.items() for word in option]
    run = subprocess.run([*COMMAND, "--quick", *options], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return QuickRun(run.stdout, json.loads(files["--json"].read_text()), files["--svg"])


def test_benchmarks_quick_run(quick_run: QuickRun) -> None:
    """A run measures complete streams, sockets and turns of all servers, with either transport, and plots them."""
    document = quick_run.document
    for name, count in (("streams", STREAMS), ("streams_tls", STREAMS), ("sockets_tls", SOCKETS)):
        (measured,) = document[name]["sizes"]
        assert list(measured["servers"]) == [server for server in SERVERS if name != "sockets_tls" or server in OURS]
        for server, members in measured["servers"].items():
            assert (members["whole"], members["failures"]) == (count, {}), server
            assert members["latency_p99_ms"] >= members["latency_p50_ms"] > 0
            assert (members["cpu_us_per_event"] is None) == (server == "direct")
        assert measured["ratio"]["cpu_us_per_event"]["median"] > 0
    (turns,) = document["turns_tls"]["sizes"]
    assert list(turns["servers"]) == SERVERS
    assert all(members["whole"] > 0 and not members["failures"] for members in turns["servers"].values())
    assert ET.parse(quick_run.plot).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_benchmarks_arrivals(quick_run: QuickRun) -> None:
    """New turns beside open streams are all complete, and both users' are timed."""
    (measured,) = quick_run.document["arrivals_tls"]["sizes"]
    for server, members in measured["servers"].items():
        assert (members["whole"], members["failures"]) == (30, {}), server  # 20 streams, 10 turns
        assert min(members[f"{of}_p50_ms"] for of in ("latency", "turn_first_byte", "quiet_first_byte")) > 0


def test_benchmarks_tables(quick_run: QuickRun) -> None:
    """Ratios come first, then a table for each load with a line for each server."""
    first, *tables = [part for part in quick_run.output.split("\n\n") if "  ocm-wsgi" in part]
    assert [line.split()[0] for line in first.splitlines() if line.startswith("  ")][:2] == ["ocm-wsgi", "chatmock"]
    assert len(tables) == 5
    for table in tables:
        found = [line.split() for line in table.splitlines()]
        assert [row[0] for row in found if row[0] in ("nginx", "ocm-wsgi", "ratio")] == ["nginx", "ocm-wsgi", "ratio"]


def test_benchmarks_others(quick_run: QuickRun) -> None:
    """Named programs are measured too, even if they rewrite responses and close; broken ones do not end the run."""
    assert "ChatMock 7.8.9, LiteLLM 7.8.9, sing-box (unknown version)" in quick_run.output.splitlines()[0]
    missing = [remark for remark in quick_run.document["remarks"] if remark.startswith("streams: not measured: ")]
    refused, exited = missing
    assert refused.startswith("streams: not measured: litellm does not work: HTTP/1.1 500 Will not")
    assert exited == "streams: not measured: sing-box exited at startup"


def test_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs on PATH are found."""
    monkeypatch.setenv("PATH", str(install("chatmock", tmp_path, "true").parent))
    assert installed(chatmock.KIND) == tmp_path / "chatmock" / "bin" / "chatmock"
    assert installed(litellm.KIND) is None


def test_sing_box_configuration(tmp_path: Path) -> None:
    """sing-box gets a credential, a user and its usage file, and reaches upstream through the tunnels."""
    certificate = Certificate(tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "authority.pem")
    upstream = Upstream(("127.0.0.1", 1), ProcessTree(), 1, None, Tunnels(("127.0.0.1", 2), certificate))
    prepared = sing_box.KIND.prepare(upstream, tmp_path, ("127.0.0.1", 3))
    assert prepared.arguments[:3] == ("run", "--config", "config.json")
    configuration = json.loads((tmp_path / "config.json").read_text())
    (service,), (outbound,) = configuration["services"], configuration["outbounds"]
    assert (service["type"], service["listen_port"], service["detour"]) == ("ocm", 3, outbound["tag"])
    assert (outbound["type"], outbound["server_port"]) == ("http", 2)
    assert json.loads(Path(service["credential_path"]).read_text())["tokens"]["access_token"]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition on real processes is true."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


def is_running(pid: int) -> bool:
    """Return whether a process is running, and not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_benchmarks_interrupted() -> None:
    """Ctrl-C stops a run and all its processes."""
    with subprocess.Popen(
        [*COMMAND, "--only", "turns", "--plain"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        tree = ProcessTree(process.pid)
        assert "nginx" in process.stdout.readline()
        # The command, multiprocessing's resource tracker, upstream, and two servers with a master and two workers each.
        wait_for(lambda: len(tree.members()) >= 9)
        members = tree.members()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == "Interrupted; all processes were stopped.\n"
    # The resource tracker exits when its pipe is closed.
    wait_for(lambda: not any(is_running(pid) for pid in members))


@pytest.mark.parametrize("streams", ["0", "1,1", "many", "", "1,", "-5", "100000"])
def test_benchmarks_streams_malformed(streams: str) -> None:
    """A malformed list of sizes is rejected with an explanation."""
    run = CliRunner().invoke(command.main, ["--streams", streams])
    assert run.exit_code == 2
    assert "--streams" in run.output


@pytest.mark.parametrize(("format_", "overhead"), [(wire.SSE, 0), (wire.WEBSOCKET, 4)], ids=["sse", "websocket"])
def test_event_size(format_: wire.Format, overhead: int) -> None:
    """Every event has the documented size and contains its time; messages additionally have a frame header."""
    for number, sent_ns in [(0, 0), (7, 123), (wire.MAX_EVENTS, 10**18)]:
        event = format_.event(number, sent_ns)
        assert len(event) == format_.event_bytes == wire.EVENT_BYTES + overhead
        assert format_.sent_ns(event) == sent_ns
        assert json.loads(event[event.index(b"{") :])["sequence_number"] == number


def test_socket_frames() -> None:
    """The service's parsers understand the frames of clients and upstream as intended."""
    client = FrameParser(masked=True, compressible=False)
    (create,) = client.feed(wire.CREATE)
    asked = read_message([unmask(wire.CREATE[create.payload_start :], create.mask, 0)])
    assert asked.facts.model == wire.MODEL
    (close,) = client.feed(wire.CLIENT_CLOSE)
    payload = unmask(wire.CLIENT_CLOSE[close.payload_start :], close.mask, 0)
    assert (close.opcode, close_of(payload)) == (CLOSE, (1000, ""))
    said = wire.WEBSOCKET.event(0, 0) + wire.WEBSOCKET.completed + wire.CLOSED
    parts = FrameParser(masked=False, compressible=False).feed(said)
    assert [part.opcode for part in parts] == [TEXT, TEXT, CLOSE]


def test_socket_accept() -> None:
    """The accepted key is that of the RFC's example."""
    assert wire.socket_accept(wire.SOCKET_KEY.encode()) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_completed_has_usage() -> None:
    """The terminal event has about 2 KB, and usage."""
    for format_ in (wire.SSE, wire.WEBSOCKET):
        completed = json.loads(format_.completed[format_.completed.index(b"{") :])
        assert completed["response"]["usage"]["total_tokens"] > 0
        assert 1_900 < len(format_.completed) < 2_200


@pytest.mark.parametrize("size", [1, 2, 7, 158, 1000, len(STREAM)])
def test_streamed_response_any_split(size: int) -> None:
    """However a stream is split, each event is timed at the arrival of its last byte."""
    latencies: array[int] = array("q")
    response = StreamedResponse(3, latencies)
    ended = [
        response.feed(STREAM[start : start + size], start + size + 1_000_000) for start in range(0, len(STREAM), size)
    ]
    assert ended == [False] * (len(ended) - 1) + [True]
    assert response.events.count == len(latencies) == 3
    if size == 1:
        ends = [STREAM.index(event) + len(event) + 2 for event in EVENTS_SENT]
        assert list(latencies) == [end + 1_000_000 - 1_000 * number for number, end in enumerate(ends)]


@pytest.mark.parametrize(
    ("received", "says"),
    [
        pytest.param(STREAM_HEAD + chunked(*EVENTS_SENT), "terminal event", id="no-terminal-event"),
        pytest.param(STREAM_HEAD + chunked(*EVENTS_SENT[:2], wire.SSE.completed), "event", id="event-missing"),
        pytest.param(STREAM.replace(b"words", b"WORDS", 1), "differs from the one sent", id="event-changed"),
        pytest.param(
            STREAM_HEAD + chunked(EVENTS_SENT[0], EVENTS_SENT[2]), "differs from the one sent", id="event-skipped"
        ),
        pytest.param(STREAM_HEAD + b"zz\r\n", "size", id="no-chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "not chunked", id="not-chunked"),
        pytest.param(b"HTTP/1.1 503 Nope\r\n\r\nwhy", "503 Nope why", id="refused"),
    ],
)
def test_streamed_response_damaged(received: bytes, says: str) -> None:
    """A stream that differs from upstream's is detected."""
    with pytest.raises(Damaged, match=says):
        StreamedResponse(3, array("q")).feed(received, 0)


@pytest.mark.parametrize("size", [1, 7, 162, 10_000])
def test_messages_any_split(size: int) -> None:
    """However messages are split, each is timed at the arrival of its last byte, up to the terminal one."""
    said = b"".join([*(wire.WEBSOCKET.event(number, number) for number in range(3)), wire.WEBSOCKET.completed])
    events = Events(wire.WEBSOCKET, 3, array("q"))
    for start in range(0, len(said), size):
        assert not events.has_ended
        events.feed(said[start : start + size], 5)
    assert events.has_ended
    assert events.count == 3
    with pytest.raises(Damaged, match="terminal event"):
        events.feed(b"x", 5)


def test_streamed_response_cut() -> None:
    """A stream without its last byte has not ended."""
    assert not StreamedResponse(3, array("q")).feed(STREAM[:-1], 0)


def test_streamed_response_closes() -> None:
    """A response says whether another request can follow on its connection."""
    for head, closes in ((STREAM_HEAD, False), (STREAM_HEAD.replace(b"\r\nT", b"\r\nconnection: close\r\nT"), True)):
        response = StreamedResponse(3, array("q"))
        response.feed(head, 0)
        assert response.closes == closes


@pytest.mark.parametrize("mask", [b"\x11\x22\x33\x44", b"\xff\x00\xab\x01"], ids=["same", "other"])
def test_remasked(mask: bytes) -> None:
    """A message that a server has masked again is recognised, and a changed one is not."""
    payload = unmask(wire.CREATE[8:], b"\x11\x22\x33\x44", 0)
    received = wire.masked(server_text(payload), payload, mask)
    assert wire.remasked(received, wire.CREATE) == received
    changed = wire.masked(server_text(payload), payload.replace(b"line", b"LINE"), mask)
    assert wire.remasked(changed, wire.CREATE) != changed
    assert wire.remasked(received[:6], wire.CREATE) != received[:6]


def rewritten(event: bytes, **members: object) -> bytes:
    """Return an event as another server might rewrite it."""
    data = json.loads(event[event.index(b"{") :])
    return f"data: {json.dumps({**data, 'model': 'another', **members}, indent=None)}\n\n".encode()


REWRITTEN = [*map(rewritten, EVENTS_SENT), rewritten(wire.SSE.completed)]


@pytest.mark.parametrize("size", [1, 7, 200, 10_000])
def test_rewritten_response_any_split(size: int) -> None:
    """Rewritten events are timed like others, and a [DONE] at the end does not count."""
    stream = STREAM_HEAD + chunked(*REWRITTEN, b"data: [DONE]\n\n")
    latencies: array[int] = array("q")
    response = RewrittenResponse(3, latencies)
    ended = [response.feed(stream[start : start + size], 5_000) for start in range(0, len(stream), size)]
    assert ended == [False] * (len(ended) - 1) + [True]
    assert (response.events.count, list(latencies)) == (3, [5_000, 4_000, 3_000])


@pytest.mark.parametrize(
    ("events", "says"),
    [
        pytest.param(REWRITTEN[:3], "terminal event", id="no-terminal-event"),
        pytest.param([REWRITTEN[0], *REWRITTEN[2:]], "content differs", id="event-skipped"),
        pytest.param([rewritten(EVENTS_SENT[0], delta="other")], "content differs", id="event-changed"),
        pytest.param([rewritten(EVENTS_SENT[0], sent_ns=None)], "content differs", id="no-time"),
        pytest.param([*REWRITTEN[:3], REWRITTEN[2]], "was not sent", id="event-twice"),
        pytest.param([*REWRITTEN, REWRITTEN[3]], "was not sent", id="terminal-event-twice"),
        pytest.param([*REWRITTEN[:3], rewritten(wire.SSE.completed, response={})], "content differs", id="no-response"),
        pytest.param([b"data: {\n\n"], "not JSON", id="no-json"),
        pytest.param([b"data: 1\n\n"], "not a JSON object", id="no-object"),
    ],
)
def test_rewritten_response_damaged(events: list[bytes], says: str) -> None:
    """Rewritten events with other content are detected."""
    with pytest.raises(Damaged, match=says):
        RewrittenResponse(3, array("q")).feed(STREAM_HEAD + chunked(*events), 0)


def test_chunked_body_coalesced() -> None:
    """Chunks that arrive together are returned together, and the last one ends the body."""
    body = ChunkedBody()
    assert body.feed(chunked(b"one ", b"two")) == b"one two"
    assert body.has_ended


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([5], 50, 5), ([5], 99, 5), ([1, 2], 50, 1), (range(1, 101), 50, 50), (range(1, 101), 99, 99), ([1, 2, 3], 99, 3)],
)
def test_percentile(values: list[int], percent: int, expected: int) -> None:
    """The percentile is the smallest value that this percentage of all values does not exceed."""
    assert figures.percentile(values, percent) == expected
