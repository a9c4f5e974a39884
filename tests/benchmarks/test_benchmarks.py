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
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import measures, report, wire
from benchmarks.measures import Measurement
from benchmarks.processes import ProcessTree
from benchmarks.responses import ChunkedBody, Damaged, Events, StreamedResponse, TurnResponse
from benchmarks.rewritten import RewrittenResponse, RewrittenTurn
from ocm_wsgi.protocol.websocket.client_messages import read_message
from ocm_wsgi.protocol.websocket.frames import CLOSE, TEXT, FrameParser, close_of, unmask

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "benchmarks"]
STREAMS, SOCKETS, EVENTS = 2, 3, 12
SERVERS = ["direct", "nginx", "ocm-wsgi"]

PROXY = (sys.executable, REPOSITORY / "tests" / "rewriting_proxy.py")

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TURN_HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(wire.TURN)


def chunked(*pieces: bytes) -> bytes:
    """Return a complete chunked body."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


EVENTS_SENT = [wire.SSE.event(number, 1_000 * number) for number in range(3)]
STREAM = STREAM_HEAD + chunked(*EVENTS_SENT, wire.SSE.completed)


@pytest.mark.parametrize("tls", [pytest.param((), id="plain"), pytest.param(("--tls",), id="tls")])
def test_benchmarks_quick_run(tls: tuple[str, ...], tmp_path: Path) -> None:
    """A run prints a table of three servers with complete streams, sockets and turns, and writes JSON and a plot."""
    found, plot = tmp_path / "found.json", tmp_path / "plot.svg"
    sizes = ["--streams", str(STREAMS), "--sockets", str(SOCKETS), "--events", str(EVENTS)]
    options = ["--quick", *sizes, "--rate", "50", *tls]
    run = subprocess.run(
        [*COMMAND, *options, "--json", str(found), "--svg", str(plot)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[1].startswith("not measured: ChatMock, LiteLLM ")
    document = json.loads(found.read_text())
    for section, count in (("streams", STREAMS), ("sockets", SOCKETS)):
        (measured,) = document[section]["sizes"]
        assert list(measured["servers"]) == SERVERS
        for server, members in measured["servers"].items():
            assert (members["whole"], members["failures"]) == (count, {}), server
            assert members["latency_p99_ms"] >= members["latency_p50_ms"] > 0
            assert (members["cpu_us_per_event"] is None) == (server == "direct")
        assert measured["ratio"]["cpu_us_per_event"] > 0
    (turns,) = document["turns"]["sizes"]
    assert all(members["whole"] > 0 and not members["failures"] for members in turns["servers"].values())
    rows = [line.strip() for line in run.stdout.splitlines()]
    assert [row.split()[0] for row in rows if row.startswith(("nginx  ", "ocm-wsgi  ", "ratio  "))] == 3 * [
        "nginx",
        "ocm-wsgi",
        "ratio",
    ]
    assert ET.parse(plot).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def install(name: str, folder: Path, *command: object) -> Path:
    """Install a program that runs another command followed by its own arguments; return its folder."""
    program = folder / "bin" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text('#!/bin/sh\nexec {} "$@"\n'.format(" ".join(f"'{part}'" for part in command)))
    program.chmod(0o755)
    metadata = folder / "lib" / "python3.10" / "site-packages" / f"{name}-7.8.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 7.8.9\n")
    return program.parent


@pytest.mark.parametrize(
    ("works", "fails", "command", "says"),
    [
        pytest.param("chatmock", "litellm", ("false",), "not measured: litellm exited at startup", id="one-ends"),
        pytest.param(
            "litellm",
            "chatmock",
            (*PROXY, "refuse"),
            "not measured: chatmock does not work: HTTP/1.1 500 Will not",
            id="one-refuses",
        ),
    ],
)
def test_benchmarks_others(works: str, fails: str, command: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """Installed programs are measured too, even if they rewrite responses and close; broken ones do not end the run."""
    found = tmp_path / "found.json"
    folders = install(works, tmp_path / "one", *PROXY, "relay"), install(fails, tmp_path / "other", *command)
    sizes = ["--streams", str(STREAMS), "--events", str(EVENTS), "--rate", "50"]
    run = subprocess.run(
        [*COMMAND, "--only", "streams", *sizes, "--json", str(found), "--svg", str(tmp_path / "plot.svg")],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": ":".join([*map(str, folders), os.environ["PATH"]])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "ChatMock 7.8.9, LiteLLM 7.8.9" in run.stdout.splitlines()[0]
    document = json.loads(found.read_text())
    (measured,) = document["streams"]["sizes"]
    assert list(measured["servers"]) == ["direct", "nginx", works, "ocm-wsgi"]
    members = measured["servers"][works]
    assert (members["whole"], members["failures"]) == (STREAMS, {})
    assert members["cpu_us_per_event"] > 0
    assert members["latency_p99_ms"] >= members["latency_p50_ms"] > 0
    (remark,) = [remark for remark in document["remarks"] if "not measured" in remark]
    assert remark.startswith(f"streams: {says}")


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
        [*COMMAND, "--streams", "1"],
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
    run = subprocess.run([*COMMAND, "--streams", streams], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "--streams" in run.stderr


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


def test_completed_has_usage() -> None:
    """The terminal event has about 2 KB, the turn is small, and both have usage."""
    for format_ in (wire.SSE, wire.WEBSOCKET):
        completed = json.loads(format_.completed[format_.completed.index(b"{") :])
        assert completed["response"]["usage"]["total_tokens"] > 0
        assert 1_900 < len(format_.completed) < 2_200
    assert json.loads(wire.TURN)["usage"]["total_tokens"] > 0


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
        pytest.param(TURN_HEAD + wire.TURN, "not chunked", id="not-chunked"),
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


def test_turn_response() -> None:
    """A turn ends with its last byte, and a changed one is rejected."""
    response = TurnResponse()
    received = TURN_HEAD + wire.TURN
    assert [response.feed(received[i : i + 1]) for i in range(len(received))].index(True) == len(received) - 1
    with pytest.raises(Damaged, match="differs from the one sent"):
        TurnResponse().feed(received.replace(b"answer", b"ANSWER"))


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


def test_rewritten_turn() -> None:
    """A rewritten turn ends with its last byte; one with another text or usage is rejected."""
    turn = json.dumps(json.loads(wire.TURN), indent=2).encode()
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(turn)
    response = RewrittenTurn()
    assert not response.feed(head + turn[:-1])
    assert response.feed(turn[-1:])
    assert response.closes
    for there, other in ((b"answer", b"ANSWER"), (b"8000", b"8001")):
        with pytest.raises(Damaged, match="content differs"):
            RewrittenTurn().feed(head + turn.replace(there, other))


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
    assert measures.percentile(values, percent) == expected


def measurement(server: str, cpu: float | None, **failures: int) -> Measurement:
    """Return a measurement with one figure."""
    figures = dict.fromkeys((column.name for column in measures.STREAM_COLUMNS), cpu)
    return Measurement(server, 50, figures, 50 - sum(failures.values()), failures, 0.1)


def test_median_of_rounds() -> None:
    """Rounds are combined: medians (for memory the minimum), nothing for figures missing once, and all failures."""
    rounds = [measurement("nginx", 3.0, cut=1), measurement("nginx", 1.0, cut=2, late=1), measurement("nginx", 2.0)]
    found = measures.median(rounds)
    assert found.figures["memory_kib_per_stream"] == 1.0
    assert {value for name, value in found.figures.items() if not name.startswith("memory")} == {2.0}
    assert found.failures == {"cut": 3, "late": 1}
    assert set(measures.median([*rounds, measurement("nginx", None)]).figures.values()) == {None}


def test_table_ratio() -> None:
    """The last line of each size shows the service as a multiple of nginx, or a dash if that is not possible."""
    found = [measurement("direct", None), measurement("nginx", 2.0), measurement("ocm-wsgi", 3.0, cut=4)]
    section = report.Section("streams", "Streams", "streams", measures.STREAM_COLUMNS, found)
    *_, service, ratio = report.table(section).splitlines()
    assert service.split()[-2:] == ["46", "4"]
    assert ratio.split() == ["ratio"] + ["1.50×"] * len(measures.STREAM_COLUMNS)
    assert report.remarks([section]) == ["ocm-wsgi, 50 streams: 4 failed: cut"]
    failed = replace(section, measurements=[measurement("nginx", 1.0, cut=7, **{f"reason {n}": 1 for n in range(9)})])
    first, *_, last = report.remarks([failed])
    assert (first, last) == ("nginx, 50 streams: 7 failed: cut", "nginx, 50 streams: 5 failed: other reasons")
    nothing = report.Section(
        "streams", "", "streams", measures.STREAM_COLUMNS, [*found[:1], measurement("nginx", 0.0), found[2]]
    )
    assert set(report.table(nothing).splitlines()[-1].split()[1:]) == {"-"}
