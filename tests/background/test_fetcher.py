"""Responses in the background are charged for what they used even if no client fetches them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from ocm_wsgi.background.fetcher import GIVE_UP_SECONDS, PASS_SECONDS, BackgroundFetcher
from ocm_wsgi.config.loader import load
from ocm_wsgi.service import Service
from ocm_wsgi.simulator import Plan, Simulator
from ocm_wsgi.simulator.stored_objects import BATCH_USAGE
from tests.api_requests import head, receive_until
from tests.conftest import ALICE, RunningService, start_service
from tests.credentials.credential_home import eventually
from tests.ownership.conftest import USERS, Call, caller
from tests.ownership.test_background import TURN, USAGE, start, turns


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service with an API key for all tests."""
    with Simulator() as simulator:
        credential = {"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()}
        folder = tmp_path_factory.mktemp("background") / "service"
        with start_service(simulator, folder, credential=credential, user_entries=USERS, workers=1) as running:
            yield running


@pytest.fixture
def call(platform: RunningService) -> Call:
    """Return a function that sends a request to the service."""
    platform.simulator.clear()
    return caller(platform)


class Clock:
    """A clock that a test sets, in seconds from now."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    """Return a clock that shows the time."""
    return Clock()


@pytest.fixture
def fetcher(platform: RunningService, clock: Clock) -> Iterator[BackgroundFetcher]:
    """Return a fetcher as each worker has one, with its own clock."""
    service = Service.from_config(load({"OCM_CONFIG": str(platform.folder / "ocm.json")}, platform.folder))
    with closing(service):
        yield BackgroundFetcher(
            service.database,
            service.accounts,
            service.settlements,
            platform.folder / "state" / "background.lock",
            clock,
        )


def fetched(running: RunningService) -> int:
    """Return how many responses were fetched from upstream."""
    return sum(seen.method == "GET" for seen in running.simulator.requests)


def test_a_response_that_nobody_fetches_is_settled(
    call: Call, platform: RunningService, fetcher: BackgroundFetcher, clock: Clock
) -> None:
    """A minute after it began, with the owner's credential; then never again."""
    start(call, platform)
    fetcher.fetch_due()
    assert (fetched(platform), turns(platform)[0]["status"]) == (0, "in_progress")
    clock.ahead = PASS_SECONDS + 30
    fetcher.fetch_due()
    settled = turns(platform)[0]
    assert (settled["status"], settled["output_tokens"], settled["user"]) == (
        "completed",
        USAGE["output_tokens"],
        "alice",
    )
    clock.ahead *= 10
    fetcher.fetch_due()
    assert fetched(platform) == 1


def test_one_in_progress_is_fetched_less_and_less_often(
    call: Call, platform: RunningService, fetcher: BackgroundFetcher, clock: Clock
) -> None:
    """Until it has ended, or a day has passed."""
    platform.simulator.background_polls = 10_000
    try:
        start(call, platform)
    finally:
        platform.simulator.background_polls = 0
    counts = []
    for ahead in (90, 100, 160, 4000, 4900, 5100, GIVE_UP_SECONDS + 1):
        clock.ahead = ahead
        fetcher.fetch_due()
        counts.append(fetched(platform))
    assert counts == [1, 1, 2, 3, 3, 4, 4]
    assert turns(platform)[0]["status"] == "in_progress"


def test_a_batch_that_nobody_fetches_is_settled(
    call: Call, platform: RunningService, fetcher: BackgroundFetcher, clock: Clock
) -> None:
    """Its results are as usable as those of a response."""
    assert call(ALICE, "POST", "batches", json={"endpoint": "/v1/responses"}).json()["status"] == "validating"
    assert turns(platform)[0]["status"] == "in_progress"
    clock.ahead = PASS_SECONDS + 30
    fetcher.fetch_due()
    settled = turns(platform)[0]
    assert (settled["status"], settled["output_tokens"]) == ("completed", BATCH_USAGE["output_tokens"])


def test_a_stream_that_its_client_leaves_is_settled(
    call: Call, platform: RunningService, fetcher: BackgroundFetcher, clock: Clock
) -> None:
    """The response goes on; its turn is in progress until it is fetched."""
    gate = platform.simulator.gate().after(6)
    platform.simulator.plan(Plan(usage=USAGE, gate=gate, events=20))
    body = b'{"model": "gpt-5.5", "input": "hi", "background": true, "stream": true}'
    request = head(**{"Content-Type": "application/json", "Content-Length": len(body)}) + body
    with socket.create_connection(platform.address, timeout=20) as connection:
        connection.sendall(request)
        receive_until(connection, b"response.output_text.delta")
    left: dict[str, Any] = eventually(lambda: next(iter(turns(platform)), None))
    assert left["status"] == "in_progress"
    gate.release()
    clock.ahead = PASS_SECONDS + 30
    fetcher.fetch_due()
    settled = turns(platform)[0]
    assert (settled["id"], settled["status"], settled["estimated"]) == (left["id"], "completed", False)


def test_a_response_is_settled_before_it_is_deleted(call: Call, platform: RunningService) -> None:
    """Afterwards nobody could."""
    response_id = start(call, platform)
    assert call(ALICE, "DELETE", f"responses/{response_id}").status_code == 200
    assert turns(platform)[0]["output_tokens"] == USAGE["output_tokens"]
    assert fetched(platform) == 1
    settled = call(ALICE, "POST", "responses", json={**TURN, "background": False}).json()["id"]
    assert call(ALICE, "DELETE", f"responses/{settled}").status_code == 200
    assert fetched(platform) == 1


def test_failures_delay_the_next_attempt(
    call: Call, platform: RunningService, fetcher: BackgroundFetcher, clock: Clock
) -> None:
    """The turn stays in progress until upstream answers."""
    start(call, platform)
    clock.ahead = PASS_SECONDS + 30
    platform.simulator.default_plan = Plan(status=500)
    fetcher.fetch_due()
    assert turns(platform)[0]["status"] == "in_progress"
    platform.simulator.default_plan = Plan()
    clock.ahead *= 2
    fetcher.fetch_due()
    assert turns(platform)[0]["status"] == "completed"


def test_nothing_is_fetched_without_an_api_key(
    call: Call, platform: RunningService, fetcher: BackgroundFetcher, clock: Clock
) -> None:
    """With a ChatGPT sign-in, upstream stores nothing."""
    start(call, platform)
    clock.ahead = PASS_SECONDS + 30
    kept = platform.credential_path.read_text()
    platform.credential_path.write_text(json.dumps(platform.simulator.credential()))
    try:
        fetcher.fetch_due()
    finally:
        platform.credential_path.write_text(kept)
    assert fetched(platform) == 0
