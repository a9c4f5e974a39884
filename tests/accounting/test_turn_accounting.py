"""Every token and dollar, by user and model: the ledger against the simulator's own counts, through real gunicorn."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocm_wsgi.simulator import Simulator
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory, start_service

TOKENS = {"alice": ALICE, "bob": BOB}
MODELS = ["gpt-5.5", "gpt-5.4-mini", "a-model-nobody-knows"]
# How many workers are killed, one after another.
KILLS = 25
COUNTS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")


@contextlib.contextmanager
def reading(state_path: Path) -> Iterator[sa.Connection]:
    """Read the state database as another process on the machine would."""
    with contextlib.closing(Database(f"sqlite:///{state_path / 'ocm.db'}")) as database, database.read() as connection:
        yield connection


def sums(running: RunningService) -> Counter[tuple[str, ...]]:
    """Return the ledger's token sums by user, model and tier, without estimates."""
    names = ["user", "model", "service_tier"]
    columns = [db.turn.c[name] for name in names]
    counts = [sa.func.sum(sa.func.coalesce(db.turn.c[name], 0)) for name in COUNTS]
    with reading(running.state_path) as connection:
        query = sa.select(*columns, *counts).where(~db.turn.c.estimated).group_by(*columns)
        rows = connection.execute(query).all()
    found: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        for name, count in zip(COUNTS, row[len(names) :], strict=True):
            found[(*row[: len(names)], name)] = int(count)
    return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Start a service with four workers and an API key, which allows every kind of response."""
    folder = tmp_path_factory.mktemp("accounting") / "service"
    with Simulator() as simulator:
        credential = {"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()}
        with start_service(simulator, folder, credential=credential, workers=4) as started:
            yield started


def usages() -> st.SearchStrategy[dict[str, int]]:
    """Return token counts as upstream may report them: parts never exceed their total."""
    count = st.integers(0, 300_000)
    return st.tuples(count, count, count, count).map(
        lambda drawn: {
            "input_tokens": drawn[0],
            "cached_tokens": min(drawn[0], drawn[1]),
            "output_tokens": drawn[2],
            "reasoning_tokens": min(drawn[2], drawn[3]),
        }
    )


REQUESTS = st.fixed_dictionaries(
    {
        "user": st.sampled_from(sorted(TOKENS)),
        "model": st.sampled_from(MODELS),
        "kind": st.sampled_from(["responses-stream", "responses", "chat-stream", "chat"]),
        "tier": st.sampled_from([None, "priority", "flex"]),
        "usage": usages() | st.none(),
        "terminal": st.sampled_from(["completed", "completed", "incomplete", "failed"]),
        "chunking": st.sampled_from(["event", "whole", 1, 7, 100]),
        "encoding": st.sampled_from([None, None, "gzip", "zstd"]),
        "cut_after": st.sampled_from([None, None, None, 1, 3]),
    }
)


def send(running: RunningService, request: dict[str, object]) -> None:
    """Make one request, and accept any response."""
    is_chat = str(request["kind"]).startswith("chat")
    is_stream = str(request["kind"]).endswith("stream")
    plan = {
        "usage": request["usage"],
        "chunking": request["chunking"],
        "encoding": request["encoding"],
        "cut_after": request["cut_after"] if is_stream else None,
        "terminal": "completed" if is_chat else request["terminal"],
        "service_tier": request["tier"],
    }
    content = {"model": request["model"], "stream": is_stream}
    content |= {"messages": [{"role": "user", "content": "hi"}]} if is_chat else {"input": "hi"}
    if is_chat and is_stream:
        content["stream_options"] = {"include_usage": True}
    headers = {
        "Authorization": f"Bearer {TOKENS[str(request['user'])]}",
        "X-Simulate": json.dumps(plan),
        "X-User-For-The-Test": str(request["user"]),
    }
    url = f"{running.url}/v1/{'chat/completions' if is_chat else 'responses'}"
    with requests.Session() as session:
        session.trust_env = False
        try:
            session.post(url, json=content, headers=headers, timeout=30)
        except requests.exceptions.ChunkedEncodingError:
            assert request["cut_after"] is not None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(REQUESTS, min_size=1, max_size=8))
def test_the_ledger_agrees_with_upstream(running: RunningService, batch: list[dict[str, object]]) -> None:
    """Over SSE, JSON, chat and cut streams, the sums equal the simulator's, by user, model and tier."""
    running.simulator.clear()
    before = sums(running)
    threads = [threading.Thread(target=send, args=(running, request)) for request in batch]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert running.simulator.wait_for(lambda: running.simulator.open_streams == 0)
    expected: Counter[tuple[str, ...]] = Counter()
    users = {seen.number: seen.field("x-user-for-the-test") or "" for seen in running.simulator.requests}
    for turn in running.simulator.turns:
        for name in COUNTS:
            expected[users[turn.number], turn.model, turn.service_tier, name] += getattr(turn, name)
    found = sums(running)
    found.subtract(before)
    assert +found == +expected


class Load:
    """Clients that run one streamed turn after another, and note those whose end they received.

    :ivar ended: upstream's request IDs of the turns whose terminal event a client received.
    """

    def __init__(self, running: RunningService, clients: int) -> None:
        self.ended: list[str] = []
        self._url = f"{running.url}/v1/responses"
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._take_turns) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _take_turns(self) -> None:
        while not self._is_over.is_set():
            # Connections of a killed worker, and ones that are not accepted yet, are expected here.
            with contextlib.suppress(requests.RequestException), requests.Session() as session:
                session.trust_env = False
                self._take_turn(session)

    def _take_turn(self, session: requests.Session) -> None:
        body = {"model": "gpt-5.5", "stream": True, "input": "hi"}
        headers = {"Authorization": f"Bearer {ALICE}"}
        with session.post(self._url, json=body, headers=headers, stream=True, timeout=20) as response:
            received = b""
            for piece in response.iter_content(None):
                received = received[-64:] + piece
                if b"response.completed" in received and received.endswith(b"\n\n"):
                    self.ended.append(response.headers["x-request-id"])


def recorded(state_path: Path) -> Counter[str]:
    """Return how often each completed turn is in the ledger."""
    query = sa.select(db.turn.c.request_id).where(db.turn.c.status == "completed")
    with reading(state_path) as connection:
        return Counter(connection.scalars(query))


@pytest.mark.slow
def test_no_turn_is_lost_or_duplicated_by_kill(service: ServiceFactory) -> None:
    """While workers are killed at random, every turn whose end a client received is recorded exactly once."""
    running = service(workers=4)
    chooser = random.Random(9)
    with Load(running, clients=12) as load:
        for _ in range(KILLS):
            ended = len(load.ended)
            assert running.simulator.wait_for(lambda ended=ended: len(load.ended) > ended + 40, timeout=60)  # type: ignore[misc]
            os.kill(chooser.choice(workers_of(running)), signal.SIGKILL)
    assert running.stop() == 0
    # Records in the spool of a dead worker are written by the next one that starts.
    service(workers=1, state_path=str(running.state_path))
    wait_until_recorded(load, running.state_path)
    assert max(recorded(running.state_path).values()) == 1


def workers_of(running: RunningService) -> list[int]:
    """Return the current worker processes; there is at least one."""
    while True:
        text = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()
        if workers := [int(pid) for pid in text.split()]:
            return workers


@contextlib.contextmanager
def small_file_system(folder: Path, mebibytes: int) -> Iterator[None]:
    """Mount a small file system, which is soon full."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_no_turn_is_lost_when_the_disk_is_full(service: ServiceFactory, tmp_path: Path) -> None:
    """Turns continue while the state directory is full, and are in the ledger exactly once when there is room again."""
    state = tmp_path / "small"
    with small_file_system(state, 8):
        running = service(workers=2, state_path=str(state))
        with Load(running, clients=6) as load:
            assert running.simulator.wait_for(lambda: len(load.ended) > 60, timeout=30)
            with contextlib.suppress(OSError), (state / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
            full_at = len(load.ended)
            assert running.simulator.wait_for(lambda: len(load.ended) > full_at + 60, timeout=60)
            (state / "filler").unlink()
            free_at = len(load.ended)
            assert running.simulator.wait_for(lambda: len(load.ended) > free_at + 60, timeout=60)
        assert running.stop() == 0
        # Records left on disk when a service ends are written by the next one.
        service(workers=1, state_path=str(state))
        wait_until_recorded(load, state)


def unrecorded(load: Load, state_path: Path) -> list[str]:
    """Return the turns whose end a client received and that are not in the ledger exactly once."""
    found = recorded(state_path)
    return [turn for turn in load.ended if found[turn] != 1]


def wait_until_recorded(load: Load, state_path: Path) -> None:
    """Wait until every turn whose end a client received is in the ledger exactly once."""
    deadline = time.monotonic() + 30
    while missing := unrecorded(load, state_path):
        assert time.monotonic() < deadline, missing
        threading.Event().wait(0.05)


def test_the_usage_file_is_written_at_the_end(service: ServiceFactory, tmp_path: Path) -> None:
    """When the service has ended, the usage file contains the turns of all workers, added to its earlier content."""
    path = tmp_path / "usages.json"
    earlier = {"request_count": 2, "prompt_tokens": 10, "completion_tokens": 4, "cached_tokens": 1}
    path.write_text(json.dumps({"combinations": [{"model": "gpt-5", "total": earlier, "by_user": {"alice": earlier}}]}))
    running = service(workers=3, usages_path=str(path))
    for token in (ALICE, BOB, ALICE):
        requests.post(
            f"{running.url}/v1/responses",
            json={"model": "gpt-5.5", "stream": True, "input": "hi"},
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )
    assert running.stop() == 0
    written = json.loads(path.read_text())
    counts = {
        (combination["model"], user): statistics["request_count"]
        for combination in written["combinations"]
        for user, statistics in combination["by_user"].items()
    }
    assert counts == {("gpt-5", "alice"): 2, ("gpt-5.5", "alice"): 2, ("gpt-5.5", "bob"): 1}
    assert written["costs"]["total_usd"] > 0
    assert {"total_usd", "by_user", "by_week", "by_user_and_week"} <= written["costs"].keys()
