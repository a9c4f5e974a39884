"""Framing, chunking, encodings and faults, on real sockets."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme
import zstandard

from ocm_wsgi.simulator import DEFAULT_TEXT, Plan, Simulator
from tests.simulator.simulator_clients import (
    TURN,
    call,
    call_on,
    connect,
    dial,
    events_of,
    exchange_raw,
    owner_fields,
    read_to_end,
    read_until,
    said,
    sha256,
    take_turn,
    turn_bytes,
)

TARGET = "/backend-api/codex/responses"


def _chunks(raw: bytes) -> list[bytes]:
    """Split a chunked response into its chunks."""
    body = raw.partition(b"\r\n\r\n")[2]
    found = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        if int(size, 16) == 0:
            break
        found.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return found


def _closing(request: bytes) -> bytes:
    return request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate", "zstd"])
@pytest.mark.parametrize("chunking", ["event", "byte", "whole", 7, 1000])
def test_every_framing_carries_the_same_turn(
    sim: Simulator, framing: str, encoding: str | None, chunking: str | int
) -> None:
    """With any framing, chunking and encoding, the client reads the turn, and its bytes match the recorded hash."""
    sim.plan(Plan(framing=framing, encoding=encoding, chunking=chunking))
    reply = take_turn(sim)
    assert reply.field("Content-Encoding") == encoding
    assert (reply.field("Content-Length") is None) == (framing != "length")
    decoders: dict[str | None, Callable[[bytes], bytes]] = {
        None: lambda body: body,
        "gzip": lambda body: zlib.decompress(body, 31),
        "deflate": zlib.decompress,
        "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
    }
    assert said(decoders[encoding](reply.body)) == DEFAULT_TEXT
    assert (sim.sent[0].body_sha256, sim.sent[0].body_length) == (sha256(reply.body), len(reply.body))


@pytest.mark.parametrize(
    ("chunking", "sizes"),
    [pytest.param("byte", {1}, id="byte"), pytest.param(10, {10}, id="ten-bytes")],
)
def test_chunking_cuts_to_size(sim: Simulator, chunking: str | int, sizes: set[int]) -> None:
    """Chunks have the planned size, across events; only the last one may be shorter."""
    sim.plan(Plan(chunking=chunking))
    chunks = _chunks(exchange_raw(sim, _closing(turn_bytes(sim))))
    assert {len(chunk) for chunk in chunks[:-1]} == sizes


def test_chunking_by_event_and_whole(sim: Simulator) -> None:
    """A response can have one chunk per event, or one chunk in total."""
    sim.plan(Plan())
    sim.plan(Plan(chunking="whole"))
    by_event = _chunks(exchange_raw(sim, _closing(turn_bytes(sim))))
    whole = _chunks(exchange_raw(sim, _closing(turn_bytes(sim))))
    assert all(chunk.startswith(b"event: ") and chunk.endswith(b"\n\n") for chunk in by_event)
    assert len(whole) == 1
    assert len(events_of(whole[0])) == len(by_event)


def test_encoded_events_can_be_decoded_as_they_come(sim: Simulator) -> None:
    """The encoder is flushed after each event: the first event can be decoded at the gate."""
    gate = sim.gate().after(1)
    sim.plan(Plan(encoding="zstd", gate=gate))
    with dial(sim) as sock:
        sock.sendall(_closing(turn_bytes(sim)))
        assert gate.reached.wait(30)
        raw = read_until(sock, b"\r\n\r\n")
        while not _chunks(raw):
            raw += sock.recv(65536)
        first = zstandard.ZstdDecompressor().decompressobj().decompress(_chunks(raw)[0])
        assert first.startswith(b"event: response.created")
        gate.release()
        read_to_end(sock)


def test_gate_holds_the_second_event(sim: Simulator) -> None:
    """The first event arrives before the second is sent."""
    gate = sim.gate().after(1)
    sim.plan(Plan(gate=gate))
    with dial(sim) as sock:
        sock.sendall(_closing(turn_bytes(sim)))
        assert b"response.created" in read_until(sock, b"\n\n")
        assert sim.open_streams == 1
        assert sim.turns == []
        gate.release()
        assert b"response.completed" in read_to_end(sock)
    assert sim.wait_for(lambda: sim.open_streams == 0)


def test_interval_spreads_the_events(sim: Simulator) -> None:
    """Events come no faster than the interval."""
    sim.plan(Plan(interval=0.01, events=5))
    started = time.monotonic()
    reply = take_turn(sim)
    assert len(events_of(reply.body)) == 13
    assert time.monotonic() - started >= 12 * 0.01


@pytest.mark.parametrize("point", [0, 3])
def test_silence_ends_when_the_client_leaves(sim: Simulator, point: int) -> None:
    """A silent response detects its client's disconnect immediately, and its turn is cut."""
    sim.plan(Plan(silence_after=point))
    with dial(sim) as sock:
        sock.sendall(turn_bytes(sim))
        read_until(sock, b"\r\n\r\n")
        assert sim.open_streams == 1
    assert sim.wait_for(lambda: sim.open_streams == 0 and sim.open_connections == 0)
    assert [turn.status for turn in sim.turns] == ["cut"]


def test_silence_before_status_sends_nothing(sim: Simulator) -> None:
    """Nothing is sent until the client disconnects."""
    sim.plan(Plan(silence_before_status=True))
    with dial(sim) as sock:
        sock.sendall(turn_bytes(sim))
        assert sim.wait_for(lambda: sim.requests)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    assert sim.wait_for(lambda: sim.open_connections == 0)


def test_gate_before_status_holds_the_head(sim: Simulator) -> None:
    """A response can be blocked before its status line."""
    gate = sim.gate().at("status")
    sim.plan(Plan(gate=gate))
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(take_turn, sim)
        assert gate.reached.wait(30)
        assert not reply.done()
        gate.release()
        assert reply.result(10).status == 200


def test_cut_ends_a_chunked_body_without_its_end(sim: Simulator) -> None:
    """A cut stream lacks the last chunk; a close-delimited one just ends; both turns are cut."""
    sim.plan(Plan(cut_after=2))
    raw = exchange_raw(sim, turn_bytes(sim))
    assert (raw.count(b"event: "), raw.endswith(b"0\r\n\r\n")) == (2, False)
    sim.plan(Plan(cut_after=2, framing="close"))
    with dial(sim) as sock:
        sock.sendall(turn_bytes(sim))
        assert read_to_end(sock).count(b"event: ") == 2
    assert sim.wait_for(lambda: [turn.status for turn in sim.turns] == ["cut", "cut"])


def test_reset_breaks_the_connection(sim: Simulator) -> None:
    """A planned reset resets the connection."""
    sim.plan(Plan(reset_after=1))
    with dial(sim) as sock:
        sock.sendall(turn_bytes(sim))
        with pytest.raises(ConnectionResetError):
            read_to_end(sock)


def test_bad_chunk_breaks_the_framing(sim: Simulator) -> None:
    """An invalid chunk size follows complete events."""
    sim.plan(Plan(bad_chunk=1))
    with pytest.raises(http.client.IncompleteRead):
        take_turn(sim)


@pytest.mark.parametrize("difference", [-5, 5])
def test_wrong_length_lies(sim: Simulator, difference: int) -> None:
    """``Content-Length`` is wrong by the planned number, and the connection ends."""
    sim.plan(Plan(json={"a": 1}, wrong_length=difference))
    head, _, body = exchange_raw(sim, turn_bytes(sim)).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body) + difference}".encode() in head


def test_head_faults(sim: Simulator) -> None:
    """The head can lack its content type, repeat fields, set cookies, and be very long."""
    sim.plan(
        Plan(
            no_content_type=True,
            set_cookie=["a=1", "b=2"],
            fields=[("X-Twice", "1"), ("x-twice", "2")],
            endless_field=50_000,
        )
    )
    reply = take_turn(sim)
    assert reply.field("Content-Type") is None
    assert [value for name, value in reply.fields if name == "Set-Cookie"] == ["a=1", "b=2"]
    assert [value for name, value in reply.fields if name.lower() == "x-twice"] == ["1", "2"]
    assert len(reply.field("X-Endless") or "") == 50_000


def test_interim_responses_come_first(sim: Simulator) -> None:
    """102 and 103, with a field, come before the response."""
    sim.plan(Plan(early_hints=True))
    raw = exchange_raw(sim, _closing(turn_bytes(sim)))
    assert re.findall(rb"HTTP/1.1 (\d+)", raw) == [b"102", b"103", b"200"]
    assert b"\r\nLink: <" in raw.partition(b"HTTP/1.1 200")[0]


def test_garbage_instead_of_and_after_a_response(sim: Simulator) -> None:
    """The response can be invalid HTTP, or followed by another one."""
    sim.plan(Plan(status_line_garbage=True))
    with pytest.raises(http.client.BadStatusLine):
        take_turn(sim)
    sim.plan(Plan(extra_response=b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"))
    assert exchange_raw(sim, _closing(turn_bytes(sim))).endswith(
        b"0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"
    )


def test_connections_are_kept_alive_until_asked_to_close(sim: Simulator) -> None:
    """Requests share a connection; ``close_idle`` closes it without announcing this."""
    fields = owner_fields(sim.credential())
    with connect(sim) as connection:
        for _ in range(2):
            assert call_on(connection, "GET", "/backend-api/codex/models", fields=fields).status == 200
        assert [seen.connection_id for seen in sim.requests] == [1, 1]
        sim.plan(Plan(close_idle=True))
        reply = call_on(connection, "GET", "/backend-api/codex/models", fields=fields)
        assert reply.field("Connection") is None
        assert sim.wait_for(lambda: sim.open_connections == 0)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            call_on(connection, "GET", "/backend-api/codex/models", fields=fields)


def test_body_can_be_refused_unread(sim: Simulator) -> None:
    """A response can be sent before the body was read; the part that was read is recorded."""
    head = f"POST {TARGET} HTTP/1.1\r\nHost: s\r\nContent-Length: 1000000\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in owner_fields(sim.credential()).items())
    sim.plan(Plan(status=413, refuse_body=True))
    sim.plan(Plan(status=413, read_only_n_bytes=10))
    for already_sent in (b"", b"0123456789more"):
        with dial(sim) as sock:
            sock.sendall(head.encode() + b"\r\n" + already_sent)
            assert read_to_end(sock).startswith(b"HTTP/1.1 413 ")
    assert [(seen.body_length, seen.body) for seen in sim.requests] == [(0, b""), (10, b"0123456789")]


def test_gate_before_the_body_leaves_it_unread(sim: Simulator) -> None:
    """A blocked reader receives no more than the sockets' buffers."""
    gate = sim.gate().at("body")
    sim.plan(Plan(gate=gate, slow_read=0.001))
    body = json.dumps({**TURN, "padding": "x" * 400_000}).encode()
    fields = owner_fields(sim.credential())
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(call, sim, "POST", TARGET, body=body, fields=fields)
        assert gate.reached.wait(30)
        assert sim.requests == []
        gate.release()
        assert reply.result(10).status == 200
    assert (sim.requests[0].body_length, sim.requests[0].body_sha256) == (len(body), sha256(body))


def test_expectation_is_met_before_the_body(sim: Simulator) -> None:
    """``Expect: 100-continue`` is answered before the body is read."""
    request = _closing(turn_bytes(sim)).replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1)
    head, _, body = request.partition(b"\r\n\r\n")
    with dial(sim) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert b"response.completed" in read_to_end(sock)


def test_chunked_request_is_read(sim: Simulator) -> None:
    """A chunked body, with extensions and trailers, is decoded."""
    body = json.dumps(TURN).encode()
    head = turn_bytes(sim).partition(b"\r\n\r\n")[0]
    head = re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked\r\nConnection: close", head)
    chunked = b"5;x=y\r\n" + body[:5] + b"\r\n%x\r\n" % (len(body) - 5) + body[5:] + b"\r\n0\r\nTrailer: 1\r\n\r\n"
    assert b"response.completed" in exchange_raw(sim, head + b"\r\n\r\n" + chunked)
    assert sim.requests[0].body == body


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"nonsense\r\n\r\n", id="no-request-line"),
        pytest.param(b"GET / HTTP/2.0\r\n\r\n", id="version"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two-hosts"),
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", id="bare-lf"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", id="folded"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="length-and-chunked",
        ),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", id="signed-length"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", id="coding"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunk-size"),
    ],
)
def test_bad_messages_are_refused(sim: Simulator, request_bytes: bytes) -> None:
    """Requests that a strict origin would reject get 400, and the connection ends."""
    assert exchange_raw(sim, request_bytes).startswith(b"HTTP/1.1 400 ")
    assert len(sim.bad_messages) == 1
    assert sim.requests == []


def test_truncated_body_is_a_bad_message(sim: Simulator) -> None:
    """A request whose body ends early is recorded as a bad message."""
    with dial(sim) as sock:
        sock.sendall(turn_bytes(sim)[:-1])
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock).startswith(b"HTTP/1.1 400 ")
    assert (sim.bad_messages, sim.requests) == (["the body ended early"], [])


def test_requests_are_recorded_as_sent(sim: Simulator) -> None:
    """The target's bytes, and the fields' case, order and duplicates are preserved."""
    fields = b"Host: s\r\nsession_id: 1\r\nX-Two: a\r\nx-two: b\r\nConnection: close\r\n"
    exchange_raw(sim, b"GET /v1//a%7E?q=%zz&\xff HTTP/1.1\r\n" + fields + b"\r\n")
    (seen,) = sim.seen("/v1//a%7E")
    assert seen.target == "/v1//a%7E?q=%zz&\xff"
    assert seen.fields == (
        ("Host", "s"),
        ("session_id", "1"),
        ("X-Two", "a"),
        ("x-two", "b"),
        ("Connection", "close"),
    )
    assert (seen.field("X-TWO"), seen.values("x-two"), seen.field("none")) == ("a", ["a", "b"], None)
    assert (seen.method, seen.http_version, seen.body) == ("GET", "HTTP/1.1", b"")


def test_only_the_start_of_a_large_body_is_recorded(sim: Simulator) -> None:
    """Of a large body, the complete hash and length are recorded, but not all bytes."""
    body = b"x" * (3 * 1024 * 1024)
    call(sim, "POST", "/v1/echo", body=body, fields={"Authorization": f"Bearer {sim.api_key()}"})
    (seen,) = sim.requests
    assert (seen.body_length, seen.body_sha256, len(seen.body)) == (len(body), sha256(body), 1024 * 1024)


def test_plan_comes_with_the_request(sim: Simulator) -> None:
    """A request can have its own plan, which precedes the queue."""
    sim.plan(Plan(text="queued"))
    assert said(take_turn(sim, fields={"X-Simulate": '{"text": "brought"}'}).body) == "brought"
    assert said(take_turn(sim).body) == "queued"


@pytest.mark.parametrize(
    "plan",
    ["nonsense", "[]", '{"unknown": 1}', '{"body": "?"}', '{"status": "200"}', '{"fields": [["a"]]}', '{"gate": 1}'],
)
def test_bad_plan_is_refused(sim: Simulator, plan: str) -> None:
    """An invalid plan gets 400, with the reason."""
    reply = take_turn(sim, fields={"X-Simulate": plan})
    assert (reply.status, reply.json["error"]["code"]) == (400, "bad_plan")


def test_plans_are_queued_over_http(sim: Simulator) -> None:
    """Another process can queue plans and read the records."""
    members = {"status": 418, "body": "aGk=", "path": TARGET, "times": 2}
    assert call(sim, "POST", "/_simulator/plan", body=members).json == {"waiting": 2}
    assert call(sim, "POST", "/_simulator/plan", body={"nothing": 1}).status == 400
    reply = take_turn(sim)
    assert (reply.status, reply.body) == (418, b"hi")
    state = call(sim, "GET", "/_simulator/state").json
    assert state["waiting_plans"] == 1
    assert [seen["target"] for seen in state["requests"]][-2:] == [TARGET, "/_simulator/state"]


def test_default_plan_applies_to_all_others(sim: Simulator) -> None:
    """Without a queued plan the default one applies, but to the APIs only."""
    sim.default_plan = Plan(json="default")
    sim.plan(Plan(json="queued"))
    assert [take_turn(sim).json for _ in range(3)] == ["queued", "default", "default"]
    assert call(sim, "GET", "/backend-api/conversations").json["items"]


def test_plans_wait_for_their_path(sim: Simulator) -> None:
    """A plan with a path ignores other requests; one without a path applies to the APIs only."""
    sim.plan(Plan(json="models"), path="/backend-api/codex/models")
    sim.plan(Plan(json="any"))
    assert call(sim, "GET", "/backend-api/conversations").json["items"]
    assert take_turn(sim).json == "any"
    assert call(sim, "GET", "/backend-api/codex/models?x", fields=owner_fields(sim.credential())).json == "models"


def test_body_is_sent_in_pieces(sim: Simulator) -> None:
    """A raw body can be split into pieces that count as events for gates and faults."""
    gate = sim.gate().after(2)
    sim.plan(Plan(body=b"aabbcc", event_bytes=2, framing="length", gate=gate))
    with dial(sim) as sock:
        sock.sendall(_closing(turn_bytes(sim)))
        assert read_until(sock, b"bb").endswith(b"aabb")
        gate.release()
        assert read_to_end(sock) == b"cc"


def test_head_and_empty_statuses_have_no_body(sim: Simulator) -> None:
    """HEAD, 204 and 304 have no body, and the connection stays open."""
    fields = owner_fields(sim.credential())
    with connect(sim) as connection:
        reply = call_on(connection, "HEAD", "/backend-api/codex/models", fields=fields)
        assert (reply.body, int(reply.field("Content-Length") or 0) > 100) == (b"", True)
        for status in (204, 304):
            sim.plan(Plan(status=status))
            reply = call_on(connection, "GET", "/backend-api/codex/models", fields=fields)
            assert (reply.status, reply.body) == (status, b"")
    assert {seen.connection_id for seen in sim.requests} == {1}


def test_http_1_0_gets_a_close_delimited_body(sim: Simulator) -> None:
    """HTTP/1.0 clients get no chunks."""
    raw = exchange_raw(sim, turn_bytes(sim).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert b"Transfer-Encoding" not in raw
    assert said(raw.partition(b"\r\n\r\n")[2]) == DEFAULT_TEXT


def test_tls_is_served() -> None:
    """With a context the simulator uses TLS, sends close_notify, and stops despite open connections."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    with Simulator(ssl_context=server) as sim:
        assert sim.url.startswith("https://")
        fields = owner_fields(sim.credential())
        with connect(sim, tls=client) as connection:
            assert said(call_on(connection, "POST", TARGET, body=TURN, fields=fields).body) == DEFAULT_TEXT
            sim.plan(Plan(framing="close"))
            assert said(call_on(connection, "POST", TARGET, body=TURN, fields=fields).body) == DEFAULT_TEXT
        with dial(sim):
            assert sim.wait_for(lambda: sim.open_connections == 1)
            sim.stop()


def test_three_hundred_concurrent_streams(sim: Simulator) -> None:
    """Three hundred concurrent responses all complete."""
    gate = sim.gate().after(3)
    sim.plan(Plan(gate=gate), times=300)
    request = _closing(turn_bytes(sim))
    sockets = [dial(sim) for _ in range(300)]
    try:
        for sock in sockets:
            sock.sendall(request)
        assert sim.wait_for(lambda: sim.open_streams == 300)
        gate.release()
        assert all(b"response.completed" in read_to_end(sock) for sock in sockets)
    finally:
        for sock in sockets:
            sock.close()
    assert len(sim.turns) == 300


def test_stop_ends_everything_immediately() -> None:
    """Stopping closes silent streams, idle connections and the port, and joins every thread."""
    sim = Simulator().start()
    sim.plan(Plan(silence_after=1), times=20)
    sockets = [dial(sim) for _ in range(20)]
    idle = dial(sim)
    try:
        for sock in sockets:
            sock.sendall(turn_bytes(sim))
        assert sim.wait_for(lambda: sim.open_streams == 20 and sim.open_connections == 21)
        stopper = threading.Thread(target=sim.stop)
        stopper.start()
        stopper.join(5)
        assert not stopper.is_alive()
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            dial(sim)
    finally:
        for sock in (*sockets, idle):
            sock.close()
    sim.stop()


def test_clear_drops_all_records(sim: Simulator) -> None:
    """After clearing, there are no old records."""
    take_turn(sim)
    sim.clear()
    assert (sim.requests, sim.turns, sim.sent, sim.refreshes) == ([], [], [], [])
    assert sim.wait_for(lambda: sim.requests, timeout=0) is False
