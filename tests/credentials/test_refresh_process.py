"""One refresh for many processes: several workers, a concurrent Codex, and processes killed at the worst moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.credentials import Timeouts
from ocm_wsgi.credentials.auth_file_reader import FileProblem, read
from ocm_wsgi.simulator import Plan
from tests.credentials.credential_home import TIMEOUTS, Home, eventually, held, helper_of
from tests.credentials.credential_worker import WORKER, task_of

TOKEN = "/oauth/token"
CODEX = str(Path(__file__).with_name("codex_standin.py"))


class Program:
    """A test program in its own process, which communicates line by line."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def next_line(self) -> str:
        """Wait for its next line, and return it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def proceed(self) -> None:
        """Let it continue."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def results(self) -> list[dict[str, Any]]:
        """Wait for the results of a worker's threads, and return them."""
        results = json.loads(self.next_line())
        assert isinstance(results, list)
        return results

    def end(self) -> None:
        """Kill it if it is still running."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program; all are ended at the end of the test."""
    with ExitStack() as programs:

        def run(*arguments: str) -> Program:
            program = Program(*arguments)
            programs.callback(program.end)
            return program

        yield run


def start_workers(start: Start, home: Home, workers: int = 4, **task: Any) -> list[Program]:
    """Start workers that wait for the signal to begin."""
    programs = [start(WORKER, task_of(home, **task)) for _ in range(workers)]
    assert [program.next_line() for program in programs] == ["ready"] * workers
    return programs


def go(programs: list[Program]) -> list[dict[str, Any]]:
    """Let all begin at the same time; return the results of all threads."""
    for program in programs:
        program.proceed()
    return [result for program in programs for result in program.results()]


@pytest.mark.parametrize("rejected", [False, True], ids=["expired", "rejected"])
def test_forty_threads_in_four_processes_refresh_once(home: Home, start: Start, rejected: bool) -> None:
    """Forty concurrent requests over four workers cause exactly one refresh, and all use its result."""
    home.sign_in(expires_in=3600 if rejected else -1)
    results = go(start_workers(start, home, threads=10, rejected=rejected))
    assert home.outcomes() == ["rotated"]
    assert results == [{"access_token": home.access_token()}] * 40


def test_permanent_refusal_is_presented_once_across_processes(home: Home, start: Start) -> None:
    """Several workers present a dead sign-in once, and once more only after the file has changed."""
    home.sign_in(expires_in=-1)
    home.simulator.revoke_all()
    timeouts = {"lock_seconds": 20.0, "exchange_seconds": 20.0, "adoption_seconds": 0.5}
    results = go(start_workers(start, home, threads=10, timeouts=timeouts))
    assert home.outcomes() == ["invalidated"]
    assert {result["status"] for result in results} == {400}
    assert go(start_workers(start, home, 1))[0]["status"] == 400
    assert home.outcomes() == ["invalidated"]
    home.sign_in(expires_in=-1)
    assert go(start_workers(start, home, 1)) == [{"access_token": home.access_token()}]
    assert home.outcomes() == ["invalidated", "rotated"]


@pytest.mark.parametrize("is_codex_first", [True, False])
def test_workers_beside_codex_refresh_once(home: Home, start: Start, is_codex_first: bool) -> None:
    """Forty requests over four workers and a Codex: one rotation, and all of them end with its tokens."""
    home.sign_in(expires_in=-1)
    workers = start_workers(
        start, home, threads=10, timeouts={"lock_seconds": 20.0, "exchange_seconds": 20.0, "adoption_seconds": 10.0}
    )
    codex = start(CODEX, str(home.path), f"{home.simulator.url}{TOKEN}")
    assert codex.next_line() == "loaded"
    for program in [codex, *workers] if is_codex_first else [*workers, codex]:
        program.proceed()
    if codex.next_line() == "granted":
        codex.proceed()
        assert codex.next_line() == "committed"
    results = [result for worker in workers for result in worker.results()]
    assert home.outcomes().count("rotated") == 1
    assert results == [{"access_token": home.access_token()}] * 40


def test_codex_was_first_and_writes_later(home: Home, start: Start) -> None:
    """After a refusal, tokens that Codex received before us and writes later are waited for and used."""
    home.sign_in(expires_in=-1)
    codex = start(CODEX, str(home.path), f"{home.simulator.url}{TOKEN}")
    assert codex.next_line() == "loaded"
    codex.proceed()
    assert codex.next_line() == "granted"
    (worker,) = start_workers(
        start, home, 1, timeouts={"lock_seconds": 20.0, "exchange_seconds": 20.0, "adoption_seconds": 60.0}
    )
    worker.proceed()
    assert home.simulator.wait_for(lambda: home.outcomes() == ["rotated", "reused"])
    codex.proceed()
    assert codex.next_line() == "committed"
    assert worker.results() == [{"access_token": home.access_token()}]


def test_codex_refreshes_during_our_refresh(home: Home, start: Start) -> None:
    """A Codex that loaded the file before our refresh is refused by the issuer, and adopts ours afterwards."""
    gate = home.simulator.gate().at("rotated")
    home.simulator.plan(Plan(gate=gate), path=TOKEN)
    home.sign_in(expires_in=-1)
    early, late = (start(CODEX, str(home.path), f"{home.simulator.url}{TOKEN}") for _ in range(2))
    assert [early.next_line(), late.next_line()] == ["loaded", "loaded"]
    (worker,) = start_workers(start, home, 1)
    worker.proceed()
    assert gate.reached.wait(30)
    early.proceed()
    assert early.next_line() == "refused"
    gate.release()
    assert worker.results() == [{"access_token": home.access_token()}]
    late.proceed()
    assert late.next_line() == "adopted"
    assert home.outcomes() == ["rotated", "reused"]


def kill_at(start: Start, home: Home, is_there: Callable[[int], object]) -> int:
    """Start a worker, kill it at a point of its refresh process, and return the ID of that process."""
    (worker,) = start_workers(start, home, 1)
    worker.proceed()
    helper = helper_of(worker.process.pid)
    eventually(lambda: is_there(helper))
    worker.process.kill()
    worker.process.wait()
    return helper


def watch_whole(home: Home) -> Callable[[], None]:
    """Read the file continuously without retries; return a function that stops and asserts it was always whole."""
    done = threading.Event()
    failures: list[FileProblem] = []

    def look() -> None:
        while not done.is_set():
            try:
                read(home.path)
            except FileProblem as exc:
                failures.append(exc)

    watcher = threading.Thread(target=look)
    watcher.start()

    def end() -> None:
        done.set()
        watcher.join()
        assert failures == []

    return end


def has_open(path: Path) -> Callable[[int], bool]:
    """Return a function that tests whether a process has a file open."""

    def test(pid: int) -> bool:
        try:
            return any(os.path.realpath(link) == str(path) for link in Path(f"/proc/{pid}/fd").iterdir())
        except FileNotFoundError:
            return False

    return test


def assert_refreshed_without_us(home: Home, before: str) -> None:
    """Assert that the orphaned process finishes, and that the next worker uses its result."""
    eventually(lambda: home.access_token() != before)
    assert home.outcomes() == ["rotated"]
    assert home.source().current().access_token == home.access_token()
    assert home.outcomes() == ["rotated"]
    eventually(lambda: home.remains() == [])


def test_worker_killed_while_it_waits_for_the_lock(home: Home, start: Start) -> None:
    """A refresh outlives its worker, killed while another program holds the lock."""
    before = home.sign_in(expires_in=-1)["tokens"]["access_token"]
    end = watch_whole(home)
    with held(home.folder / "auth.json.lock"):
        kill_at(start, home, has_open(home.folder / "auth.lock"))
        assert home.outcomes() == []
    assert_refreshed_without_us(home, before)
    end()


@pytest.mark.parametrize("point", ["rotation", "rotated"])
def test_worker_killed_while_the_request_is_in_flight(home: Home, start: Start, point: str) -> None:
    """A refresh outlives its worker, killed before or after the issuer has used up the refresh token."""
    gate = home.simulator.gate().at(point)
    home.simulator.plan(Plan(gate=gate), path=TOKEN)
    before = home.sign_in(expires_in=-1)["tokens"]["access_token"]
    end = watch_whole(home)
    kill_at(start, home, lambda _: gate.reached.is_set())
    gate.release()
    assert_refreshed_without_us(home, before)
    end()


def test_refreshing_process_killed_before_the_rotation(home: Home, start: Start) -> None:
    """If the refresh process itself is killed before the rotation, the file is unchanged and the next one works."""
    gate = home.simulator.gate().at("rotation")
    home.simulator.plan(Plan(gate=gate), path=TOKEN)
    before = home.sign_in(expires_in=-1)
    end = watch_whole(home)
    (worker,) = start_workers(start, home, 1)
    worker.proceed()
    assert gate.reached.wait(30)
    os.kill(helper_of(worker.process.pid), signal.SIGKILL)
    (result,) = worker.results()
    assert result["status"] == 503
    assert home.simulator.wait_for(lambda: home.outcomes() == ["cut"])
    assert home.content() == before
    assert home.source().current().access_token == home.access_token() != before["tokens"]["access_token"]
    assert home.outcomes() == ["cut", "rotated"]
    assert home.remains() == []
    end()


def test_waiting_for_the_refreshing_process_is_bounded(home: Home) -> None:
    """A worker stops waiting eventually; the refresh continues, and its result is found in the file."""
    gate = home.simulator.gate().at("rotated")
    home.simulator.plan(Plan(gate=gate), path=TOKEN)
    before = home.sign_in(expires_in=-1)["tokens"]["access_token"]
    source = home.source(
        refresher=home.refresher(timeouts=Timeouts(lock_seconds=0.5, exchange_seconds=0.5, adoption_seconds=0.0))
    )
    with pytest.raises(Exception, match="could not refresh") as caught:
        source.current()
    assert caught.value.detail == "refresh: process"  # type: ignore[attr-defined]
    assert gate.reached.wait(30)
    gate.release()
    eventually(lambda: home.access_token() != before)
    assert source.current().access_token == home.access_token()
    assert home.outcomes() == ["rotated"]
    assert TIMEOUTS.total_seconds > 30
