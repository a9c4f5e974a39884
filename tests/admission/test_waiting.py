"""Requests that wait for upstream are bounded by user, so that one user cannot occupy all threads of a worker."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack

import pytest
import requests

from ocm_wsgi.admission.waiting import LEAST_THREADS, WaitingRequests
from ocm_wsgi.errors import TooManyConcurrent
from ocm_wsgi.simulator import Plan
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory

#: Of the worker in these tests.
THREADS = 16


def test_counted() -> None:
    """A user with a quarter of the threads is refused more of them, once all users together have half of them."""
    waiting = WaitingRequests()
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(waiting.counted("alice", THREADS))
        with pytest.raises(TooManyConcurrent, match="begun to answer 8 of your requests") as refused:
            held.enter_context(waiting.counted("alice", THREADS))
        assert (refused.value.status, refused.value.retry_after_seconds) == (429, 5)
        for _ in range(4):
            held.enter_context(waiting.counted("bob", THREADS))
        with pytest.raises(TooManyConcurrent):
            held.enter_context(waiting.counted("bob", THREADS))
        with waiting.counted("carol", THREADS):
            pass
        for _ in range(THREADS):
            held.enter_context(waiting.counted("", THREADS))
    with waiting.counted("alice", THREADS):
        pass
    assert waiting._of_user == {}


def test_counted_with_few_threads() -> None:
    """A process with few threads refuses nobody."""
    waiting = WaitingRequests()
    with ExitStack() as held:
        for _ in range(LEAST_THREADS):
            held.enter_context(waiting.counted("alice", LEAST_THREADS - 1))


def test_counted_by_many_threads() -> None:
    """However many threads begin and end requests at once, none is counted for ever."""
    waiting = WaitingRequests()
    admitted: list[int] = []

    def run() -> None:
        for _ in range(300):
            try:
                with waiting.counted("alice", THREADS):
                    admitted.append(len(waiting._of_user))
            except TooManyConcurrent:
                continue

    threads = [threading.Thread(target=run) for _ in range(2 * THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted
    assert (waiting._all, waiting._of_user) == (0, {})


def test_cost() -> None:
    """Counting takes a few microseconds at most."""
    waiting = WaitingRequests()
    times = []
    for _ in range(1000):
        begin = time.thread_time()
        with waiting.counted("alice"):
            pass
        times.append(time.thread_time() - begin)
    assert sorted(times)[500] < 0.0005


def take_turn(running: RunningService, token: str, method: str = "POST") -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        body = {"model": "gpt-5.5", "stream": True, "input": "hi"} if method == "POST" else None
        path = "/v1/responses" if method == "POST" else "/v1/models"
        return session.request(
            method, running.url + path, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )


def test_others_are_served(service: ServiceFactory) -> None:
    """While upstream does not answer one user's requests, whatever they are, those of others are served."""
    running = service(workers=1, arguments=("--threads", str(THREADS)))
    gate = running.simulator.gate().at("status")
    running.simulator.plan(Plan(gate=gate), times=8)
    with ThreadPoolExecutor(2 * THREADS) as pool:
        sent = [pool.submit(take_turn, running, ALICE, ("POST", "GET")[number % 2]) for number in range(2 * THREADS)]
        pending = set(sent)
        while len(pending) > THREADS / 2:
            done, pending = wait(pending, timeout=60, return_when="FIRST_COMPLETED")
            assert done, "one user's requests occupy all threads"
        assert take_turn(running, BOB).status_code == 200
        gate.release()
        statuses = Counter(each.result().status_code for each in sent)
    assert statuses == {200: THREADS / 2, 429: 3 * THREADS / 2}
    assert take_turn(running, ALICE).status_code == 200
