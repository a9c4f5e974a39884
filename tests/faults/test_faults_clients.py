"""Slow, vanished, incomplete or hostile clients do not affect others, and nothing is sent upstream for them."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from ocm_wsgi.simulator import Plan
from tests.conftest import ALICE, BOB
from tests.faults.stack import (
    BODY,
    GONE_SECONDS,
    Background,
    Stack,
    bystander,
    eventually,
    head,
    held_open,
    peak_kib,
    received_until_close,
)

ROUTES = ["nginx", "direct"]
LENGTH = f"Content-Length: {len(BODY)}"
#: The request that a smuggler wants to be made on behalf of the next user on the connection.
HIDDEN = head(BOB, "X-Smuggled: 1", LENGTH) + BODY
HALF_A_BODY = head(ALICE, LENGTH) + BODY[:10]
WRONG_TOKENS = 2000


def chunked(content: bytes) -> bytes:
    """Frame a body as one chunk."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


def with_line(line: bytes, *fields: str) -> bytes:
    """Return a request head with a malformed line before the final empty one."""
    return head(ALICE, *fields)[:-2] + line + b"\r\n"


#: Under one of two interpretations, the body of each ends where the hidden request begins.
SMUGGLED = {
    "CL.TE": head(ALICE, f"Content-Length: {5 + len(HIDDEN)}", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN,
    "TE.CL": head(ALICE, "Content-Length: 4", "Transfer-Encoding: chunked") + chunked(HIDDEN),
    "two-lengths": head(ALICE, "Content-Length: 0", f"Content-Length: {len(HIDDEN)}") + HIDDEN,
    "length-list": head(ALICE, f"Content-Length: 0, {len(HIDDEN)}") + HIDDEN,
    "length-signed": head(ALICE, "Content-Length: +0") + HIDDEN,
    "length-hidden-by-space": head(ALICE, "Content-Length : 0") + HIDDEN,
    "chunked-twice": head(ALICE, "Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n" + HIDDEN,
    "chunked-not-last": head(ALICE, "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n" + HIDDEN,
    "chunked-misspelt": head(ALICE, "Transfer-Encoding: xchunked", "Content-Length: 5") + b"0\r\n\r\n" + HIDDEN,
    "chunked-folded": head(ALICE, "Transfer-Encoding:\r\n chunked", "Content-Length: 5") + b"0\r\n\r\n" + HIDDEN,
    "chunked-by-1.0": head(ALICE, "Transfer-Encoding: chunked", request="POST /v1/responses HTTP/1.0")
    + b"0\r\n\r\n"
    + HIDDEN,
    "chunk-size-signed": head(ALICE, "Transfer-Encoding: chunked") + b"+0\r\n\r\n" + HIDDEN,
    "chunk-size-hex-prefix": head(ALICE, "Transfer-Encoding: chunked") + b"0x0\r\n\r\n" + HIDDEN,
    "chunk-end-missing": head(ALICE, "Transfer-Encoding: chunked") + b"1\r\naX0\r\n\r\n" + HIDDEN,
    "bare-LF": with_line(b"X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n") + b"0\r\n\r\n" + HIDDEN,
    "bare-CR": with_line(b"X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n") + b"0\r\n\r\n" + HIDDEN,
    "obs-fold": with_line(b"X-A: b\r\n Content-Length: 0\r\n") + HIDDEN,
    "null-in-a-field": with_line(b"X-A: \0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n")
    + b"0\r\n\r\n"
    + HIDDEN,
    "underscored-length": head(ALICE, "Content_Length: 0", LENGTH) + BODY,
    "underscored-encoding": head(ALICE, "Transfer_Encoding: chunked", LENGTH) + BODY,
}

#: Invalid or ambiguous requests.
AMBIGUOUS = {
    "two-hosts": head(ALICE, "Host: evil.example", request="GET /v1/models HTTP/1.1"),
    "authority-form": head(request="CONNECT evil.example:443 HTTP/1.1"),
    "no-version": b"GET /v1/models\r\n\r\n",
    "version-9": head(request="GET /v1/models HTTP/9.9"),
    "space-in-target": head(request="GET /v1/models /v1/../conversations HTTP/1.1"),
    "no-target": head(request="GET  HTTP/1.1"),
    "http-2-without-tls": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls-on-a-plain-port": bytes.fromhex("160301010001000000") + bytes(64),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED)
def test_smuggled_request(stack: Stack, data: bytes, route: str) -> None:
    """However ambiguous the end of a body is, the request hidden there is not made for any user."""
    with bystander(stack), stack.socket(route) as connection:
        # Some servers wait for more. Closing the sending side would abort the requests, including the hidden one.
        connection.settimeout(1)
        connection.sendall(data)
        received = received_until_close(connection)
    requests = stack.simulator.requests
    assert not any(seen.field("x-smuggled") for seen in requests)
    assert [seen for seen in requests if b"x-smuggled" in seen.body.lower()] == []
    assert len(requests) <= 2
    assert BOB.encode() not in received


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_invalid_request(stack: Stack, data: bytes, route: str) -> None:
    """Invalid and ambiguous requests are refused, and nothing is sent upstream."""
    with bystander(stack), stack.socket(route) as connection:
        connection.settimeout(1)
        connection.sendall(data)
        received = received_until_close(connection)
    assert not received.startswith(b"HTTP/1.1 2")
    assert len(stack.simulator.requests) == 1


@pytest.mark.parametrize("route", ROUTES)
def test_absolute_form(stack: Stack, route: str) -> None:
    """A target that names another host is refused or sent to upstream; the credential never goes elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        host = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        with stack.socket(route) as connection:
            connection.sendall(head(ALICE, "Connection: close", request=f"GET http://{host}/v1/models HTTP/1.1"))
            received = received_until_close(connection)
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    targets = [seen.target for seen in stack.simulator.requests]
    assert targets == (["/backend-api/codex/models"] if received.startswith(b"HTTP/1.1 2") else [])


def test_smuggling_would_be_detected(stack: Stack) -> None:
    """The hidden request is made when it is sent openly, so the other tests would detect it."""
    with stack.socket("direct") as connection:
        connection.sendall(head(ALICE, LENGTH) + BODY + HIDDEN)
        assert stack.simulator.wait_for(lambda: len(stack.simulator.requests) == 2)
    assert stack.simulator.requests[-1].field("x-smuggled") == "1"


@pytest.mark.parametrize("route", ROUTES)
def test_pipelined_requests(stack: Stack, route: str) -> None:
    """Pipelined requests are answered in order, each for its own user."""
    users = [ALICE, BOB, "sk-ocm-nobody", ALICE]
    for name in ("first", "second", "third"):
        stack.simulator.plan(Plan(text=f"the {name} answer"))
    data = [head(token, LENGTH) + BODY for token in users[:-1]] + [head(ALICE, LENGTH, "Connection: close") + BODY]
    with stack.socket(route) as connection:
        connection.sendall(b"".join(data))
        received = received_until_close(connection)
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", received)
    assert statuses == [b"200", b"200", b"401", b"200"]
    places = [received.find(b"the %b answer" % name) for name in (b"first", b"second", b"third")]
    assert -1 not in places
    assert places == sorted(places)
    assert len(stack.simulator.requests) == 3


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "data",
    [b"", b"POST /v1/resp", head(ALICE, LENGTH)[:-2], HALF_A_BODY],
    ids=["nothing", "half-a-line", "half-a-head", "half-a-body"],
)
def test_half_requests(stack: Stack, data: bytes, route: str) -> None:
    """Hundreds of clients that send half a request block nobody, and nothing is sent upstream for them."""
    # gunicorn waits for heads without a thread but for bodies with one, and has 256 threads.
    count = 300 if route == "direct" and data != HALF_A_BODY else 100
    with held_open(stack, count, route, data):
        assert stack.serves()
        with bystander(stack):
            assert stack.turn(ALICE).has_ended
    # Nothing is sent after they have disconnected either.
    assert not stack.simulator.wait_for(lambda: len(stack.simulator.requests) > 4, 0.3)


@pytest.mark.parametrize("route", ROUTES)
def test_clients_that_disconnect(stack: Stack, route: str) -> None:
    """When thirty clients disconnect in mid-stream, their upstream requests end within a second; others continue."""
    simulator = stack.simulator
    with bystander(stack):
        simulator.plan(Plan(silence_after=2), times=30)
        with held_open(stack, 30, route, head(ALICE, LENGTH) + BODY):
            assert simulator.wait_for(lambda: simulator.open_streams == 31)
        assert simulator.wait_for(lambda: simulator.open_streams == 1, GONE_SECONDS)
    assert [turn.status for turn in simulator.turns].count("cut") == 30
    assert len(simulator.requests) == 31


@pytest.mark.parametrize("route", ROUTES)
def test_client_that_does_not_read(stack: Stack, route: str) -> None:
    """Clients that do not read long responses slow nobody down, and workers do not buffer the unread data."""
    simulator = stack.simulator
    before = peak_kib(stack)
    simulator.plan(Plan(events=64, event_bytes=2**20), times=4)
    with held_open(stack, 4, route, head(ALICE, LENGTH) + BODY):
        assert simulator.wait_for(lambda: simulator.open_streams == 4)
        assert stack.serves()
        assert not eventually(lambda: peak_kib(stack) - before > 32 * 1024, seconds=1)
        assert simulator.wait_for(lambda: simulator.open_streams == 4)
    assert simulator.wait_for(lambda: simulator.open_streams == 0)


@pytest.mark.parametrize("route", ROUTES)
def test_long_header(stack: Stack, route: str) -> None:
    """A field of 10,000 bytes, as Codex sends them, reaches upstream unchanged."""
    value = "".join(chr(33 + number % 94) for number in range(10_000))
    assert stack.turn(route=route, fields={"x-codex-turn-metadata": value}).has_ended
    assert stack.simulator.requests[-1].field("x-codex-turn-metadata") == value


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "fields",
    [["X-A: " + "a" * 2**18], [f"X-{number}: a" for number in range(5000)], ["a" * 2**18]],
    ids=["one-of-256-KiB", "five-thousand", "a-name-of-256-KiB"],
)
def test_endless_header(stack: Stack, fields: list[str], route: str) -> None:
    """An excessively large header is refused, and nothing is sent upstream."""
    with bystander(stack), stack.socket(route) as connection:
        try:
            connection.sendall(head(ALICE, *fields, LENGTH) + BODY)
            answer = connection.recv(65536)
        except ConnectionError:
            answer = b""
    assert re.match(rb"HTTP/1\.1 (400|431|414)|$", answer)
    assert len(stack.simulator.requests) == 1


def test_thousands_of_invalid_tokens(stack: Stack) -> None:
    """Each guess gets 401, takes no memory and is not logged; users and their streams are not affected."""
    guesses = [f"sk-ocm-guess-{number:024d}" for number in range(WRONG_TOKENS)]
    before = peak_kib(stack)

    def guess(token: str) -> int:
        return stack.turn(token, route="direct").status

    with bystander(stack), ThreadPoolExecutor(8) as pool:
        guessing = [pool.submit(guess, token) for token in guesses]
        turns = [Background(lambda: stack.turn(ALICE)) for _ in range(8)]
        assert [turn.answer().has_ended for turn in turns] == [True] * 8
        assert {each.result() for each in guessing} == {401}
    assert len(stack.simulator.requests) == 9
    assert peak_kib(stack) - before < 16 * 1024
    assert "sk-ocm-guess" not in stack.running.log_text()


def test_users_are_isolated_under_load(stack: Stack) -> None:
    """With sixty concurrent turns, some cut off, each client gets its own response and each row has the right user."""
    users = {ALICE: "alice", BOB: "bob"}

    def take(number: int) -> tuple[str, str, bool]:
        token = (ALICE, BOB)[number % 2]
        plan = {"text": f"<{users[token]} {number}>", "cut_after": 6 if number % 5 == 0 else None}
        answer = stack.turn(token, route=ROUTES[number // 2 % 2], fields={"X-Simulate": json.dumps(plan)})
        words = set(re.findall(rb"<(alice|bob) (\d+)>", answer.body))
        assert words <= {(users[token].encode(), str(number).encode())}
        return users[token], answer.request_id, answer.has_ended

    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(take, range(60)))
    assert [has_ended for _, _, has_ended in taken].count(True) == 48
    known = {request_id: user for user, request_id, _ in taken}
    assert stack.simulator.wait_for(lambda: stack.simulator.open_streams == 0)

    def found() -> dict[str, str]:
        return {request_id: user for user, _, request_id in stack.rows() if request_id in known}

    assert eventually(lambda: found() == known)
