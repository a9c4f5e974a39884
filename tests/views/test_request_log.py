"""What the log says of requests to the API, and what it never says."""

from __future__ import annotations

import json
import re

import pytest
import requests

from ocm_wsgi.simulator import Plan, Simulator
from tests.api_requests import (
    post,
)
from tests.conftest import ALICE, BOB, ServiceFactory


def test_no_token_is_logged_at_debug(service: ServiceFactory, simulator: Simulator) -> None:
    """Even at the debug level no token of a client or of the owner, old or new, is logged."""
    credential = simulator.credential(expires_in=-60)
    running = service(credential=credential, arguments=("--log-level", "debug"))
    post(running)
    post(running, token="sk-ocm-a-wrong-token-0123456789")
    post(running, target=f"/v1/models?key={BOB}")
    simulator.expire()
    post(running)
    post(running, headers={"X-Api-Key": BOB})
    simulator.plan(Plan(status_line_garbage=True))
    post(running)
    refreshed = json.loads(running.credential_path.read_text())
    assert running.stop() == 0
    log = running.log_text()
    assert "/v1/responses" in log
    assert "DEBUG" in log
    secrets = [ALICE, BOB, "sk-ocm-a-wrong-token"]
    for tokens in (credential["tokens"], refreshed["tokens"]):
        secrets += [tokens["access_token"], tokens["refresh_token"], tokens["id_token"]]
    assert [secret for secret in secrets if secret in log] == []


def test_one_log_line_per_request(service: ServiceFactory) -> None:
    """Each request is logged once, with its user, its target and how it ended."""
    running = service(workers=1)
    post(running)
    post(running, target="/v1/chat/completions")
    running.simulator.plan(Plan(cut_after=2))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        post(running)
    running.stop()
    lines = [line.partition("alice ")[2] for line in running.log_text().splitlines() if " alice " in line]
    patterns = [
        r"POST /v1/responses 200 \d+ B \d+\.\d{3} s first \d+\.\d{3} s gpt-5\.5 completed 1234\+56 tokens.*",
        r"POST /v1/chat/completions 400 \d+ B \d+\.\d{3} s \(endpoint_unavailable\)",
        r"POST /v1/responses 200 \d+ B \d+\.\d{3} s first \d+\.\d{3} s gpt-5\.5 cut.* \(upstream cut it: .+\)",
    ]
    # A line is written after its request, and the client may see the end slightly earlier: the order may differ.
    assert [sum(bool(re.fullmatch(pattern, line)) for line in lines) for pattern in patterns] == [1, 1, 1]
    assert len(lines) == 3
    assert "Traceback" not in running.log_text()
