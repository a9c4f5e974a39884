"""Log lines: content, format, and that none shows anything that looks like a secret."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.telemetry.logs import LINE_BYTES, JsonFormatter, RedactingFormatter, RequestLine, redacted
from tests.conftest import ALICE, ServiceFactory

TURN = Turn(
    id="5f0c",
    started_at=1.0,
    user="alice",
    credential=DEFAULT_CREDENTIAL,
    model="gpt-5.5",
    service_tier="default",
    context_window=0,
    week_start=None,
    usage=Usage(1234, 1024, 56, 16),
    cost_micro_usd=1_234_567,
    transport="sse",
    status="completed",
    http_status=200,
    first_byte_ms=312,
    duration_ms=1200,
    request_id="req-up",
)
LINE = RequestLine("alice", "POST", "/v1/responses", 200, 5123, 1.2345, "req-client", TURN)


def record(message: str | RequestLine, *args: object) -> logging.LogRecord:
    """Return a record as a logger creates it."""
    return logging.LogRecord("ocm_wsgi.x", logging.ERROR, __file__, 1, message, args, None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /v1/x?key=sk-ocm-abcdefgh1234 done", "GET /v1/x?key=[secret] done"),
        ("token eyJhbGciOiJub25lIn0.eyJleHAiOjF9.c2ln!", "token [secret]!"),
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer [secret]"),
        ("via http://user:pass@proxy:3128", "via http://[secret]@proxy:3128"),
        ("rt_abcdefghijklmnop1234", "[secret]"),
        ("task-force sk- and risk-based-analysis", "task-force sk- and risk-based-analysis"),
        ("gpt-5.4 https://chatgpt.com/backend-api", "gpt-5.4 https://chatgpt.com/backend-api"),
    ],
)
def test_redacted(text: str, shown: str) -> None:
    """Tokens of all kinds are masked, ordinary words are not."""
    assert redacted(text) == shown


@pytest.mark.parametrize("formatter", [RedactingFormatter("%(message)s"), JsonFormatter()])
def test_formatters_redact_arguments_and_tracebacks(formatter: logging.Formatter) -> None:
    """A secret is masked anywhere in the line."""
    failed = record("got %s", "Bearer abcdefghijk")
    try:
        raise ValueError("sk-proj-0123456789")
    except ValueError:
        failed.exc_info = sys.exc_info()
    line = formatter.format(failed)
    assert "ValueError" in line
    assert "abcdefghijk" not in line
    assert "0123456789" not in line


def test_turn_line_as_text() -> None:
    """The line has user, request, outcome, duration, usage and IDs."""
    assert LINE.text() == (
        "alice POST /v1/responses 200 5123 B 1.234 s first 0.312 s gpt-5.5 completed 1234+56 tokens"
        " id=req-client upstream_id=req-up"
    )


def test_turn_line_as_json() -> None:
    """The same as JSON members, without unknown ones."""
    members = json.loads(JsonFormatter().format(record(LINE)))
    assert members.pop("time").endswith("+00:00")
    assert members.pop("process")
    assert members == {
        "level": "error",
        "logger": "ocm_wsgi.x",
        "user": "alice",
        "method": "POST",
        "path": "/v1/responses",
        "status": 200,
        "bytes": 5123,
        "duration_seconds": 1.234,
        "first_byte_seconds": 0.312,
        "model": "gpt-5.5",
        "turn": "5f0c",
        "turn_status": "completed",
        "transport": "sse",
        "input_tokens": 1234,
        "cached_tokens": 1024,
        "output_tokens": 56,
        "reasoning_tokens": 16,
        "cost_usd": 1.234567,
        "request_id": "req-client",
        "upstream_request_id": "req-up",
    }


def test_line_without_a_user() -> None:
    """An unknown user is a dash, and a request that is no turn has no turn's fields."""
    line = RequestLine("", "GET", "/v1/models", 401, 12, 0.5, end="invalid_bearer_token")
    assert line.text() == "- GET /v1/models 401 12 B 0.500 s (invalid_bearer_token)"


@given(user=st.text(), path=st.text(), end=st.text(), request_id=st.text())
def test_client_text_cannot_forge_a_line(user: str, path: str, end: str, request_id: str) -> None:
    """Whatever a client puts into names, one request is one line, with the words in their places."""
    line = RequestLine(user, "GET", path, 200, 1, 1.0, request_id, end=end)
    text = line.text()
    assert text.isprintable()
    assert text.split(" ")[1] == "GET"
    assert len(RedactingFormatter("%(message)s").format(record("%s", text)).splitlines()) <= 1
    assert "\n" not in JsonFormatter().format(record(line))


@given(st.text(alphabet=st.sampled_from(['"', "\\", "\n", "\x01", "ü", "\U0001f600", "\ud800", "a"]), max_size=40))
def test_lines_fit_into_an_atomic_pipe_write(unit: str) -> None:
    """Whatever a text's length and content, its line is short enough for an atomic write."""
    long = record("%s", unit * 1000)
    for formatter in (RedactingFormatter("%(message)s"), JsonFormatter()):
        assert len(formatter.format(long).encode()) < LINE_BYTES
    assert json.loads(JsonFormatter().format(long))["level"] == "error"


def test_a_shortened_line_keeps_both_ends() -> None:
    """A line that is too long keeps its start and its end."""
    line = RedactingFormatter("%(message)s").format(record("%s", "first " + "x" * 9000 + " last"))
    assert line.startswith("first ")
    assert line.endswith(" last")


def test_all_lines_are_json(service: ServiceFactory) -> None:
    """With ``log_format`` every line is a JSON object: gunicorn's, ours, and one per request, with the ID that upstream
    received."""
    running = service(workers=1, log_format="json")
    fields = {"Authorization": f"Bearer {ALICE}", "X-Client-Request-Id": "req-of-client"}
    body = {"model": "gpt-5.5", "stream": True, "input": "hi"}
    requests.post(f"{running.url}/v1/responses", json=body, headers=fields, timeout=20).close()
    requests.get(f"{running.url}/v1/models", headers={"Authorization": "Bearer nobodys"}, timeout=20).close()
    (seen,) = running.simulator.requests
    assert running.stop() == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in running.log_text().splitlines()]
    assert {"gunicorn.error", "ocm_wsgi.access"} <= {line["logger"] for line in lines}
    # A turn's line is written after it has ended, and its client may see that slightly earlier: the order varies.
    access = [line for line in lines if line["logger"] == "ocm_wsgi.access"]
    turn, refused = sorted(access, key=lambda line: int(line["status"]))
    assert (turn["user"], turn["status"], turn["model"], turn["input_tokens"]) == ("alice", 200, "gpt-5.5", 1234)
    assert turn["request_id"] == seen.field("X-Client-Request-Id") == "req-of-client"
    assert (refused["status"], refused["end"]) == (401, "invalid_bearer_token")
    assert "user" not in refused


def test_gunicorn_access_log(service: ServiceFactory) -> None:
    """If enabled, it has the fields of a streamed turn's request and response."""
    form = "own line %(r)s %({x-sender}i)s %({x-codex-plan-type}o)s"
    running = service(workers=1, arguments=("--access-logfile", "-", "--access-logformat", form))
    fields = {"Authorization": f"Bearer {ALICE}", "X-Sender": "by-alice"}
    body = {"model": "gpt-5.5", "stream": True, "input": "hi"}
    requests.post(f"{running.url}/v1/responses", json=body, headers=fields, timeout=20).close()
    assert running.stop() == 0
    assert "own line POST /v1/responses HTTP/1.1 by-alice plus" in running.log_text()
