"""Metrics: exact after killed workers, the same from every worker, and only for those with access."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from ocm_wsgi.simulator import Plan, Simulator
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory
from tests.telemetry.metric_folders import folder_of

ADMIN = "sk-ocm-admin-0123456789abcdef"
SCRAPER = "scraper-0123456789abcdef"
USERS = [
    {"name": "alice", "token": ALICE},
    {"name": "bob", "token": BOB},
    {"name": "root", "token": ADMIN, "admin": True},
]
TURN = {"model": "gpt-5.5", "stream": True, "input": "hi"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def get(running: RunningService, target: str, token: str | None = ADMIN, **fields: str) -> requests.Response:
    """Send a request that ignores the machine's proxy and netrc settings."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **fields}
        return session.get(running.url + target, headers=headers, timeout=20)


def send_turn(running: RunningService, token: str = ALICE, **body: object) -> requests.Response:
    """Send a turn of a user."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {token}"}
        return session.post(f"{running.url}/v1/responses", json={**TURN, **body}, headers=headers, timeout=20)


def scrape(running: RunningService, token: str | None = ADMIN) -> Samples:
    """Return all samples, by name and labels."""
    response = get(running, "/metrics", token)
    assert response.status_code == 200, response.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return a sample's value, or 0 if there is none."""
    return samples.get((name, frozenset(labels.items())), 0.0)


def eventually(running: RunningService, condition: Callable[[Samples], bool]) -> Samples:
    """Scrape until the condition holds: a worker counts a request shortly after its client was served."""
    deadline = time.monotonic() + 20
    while True:
        samples = scrape(running)
        if condition(samples):
            return samples
        assert time.monotonic() < deadline, samples


def workers_of(running: RunningService) -> list[int]:
    """Return the process IDs of the workers."""
    return [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]


def ended(count: int) -> Callable[[Samples], bool]:
    """Return a condition: ``count`` requests have ended."""
    return lambda samples: value(samples, "ocm_responses_total", status="200") == count


def test_turns_tokens_and_cost(service: ServiceFactory) -> None:
    """Usage is shown by user and model, along with the histograms of the turns."""
    running = service(user_entries=USERS)
    for token in (ALICE, ALICE, BOB):
        assert send_turn(running, token).status_code == 200
    eventually(running, ended(3))
    # Upstream's windows are in the database within about a second.
    weekly = {"limit": "codex", "window": "secondary"}
    samples = eventually(running, lambda found: value(found, "ocm_rate_limit_used_percent", **weekly) == 34)
    alice = {"user": "alice", "model": "gpt-5.5"}
    assert value(samples, "ocm_turns_total", **alice) == 2
    assert value(samples, "ocm_turns_total", user="bob", model="gpt-5.5") == 1
    kinds = {"input": 2468, "cached": 2048, "output": 112, "reasoning": 32}
    assert {kind: value(samples, "ocm_tokens_total", **alice, kind=kind) for kind in kinds} == kinds
    assert value(samples, "ocm_cost_usd_total", **alice) > 0
    assert value(samples, "ocm_turn_duration_seconds_count", status="completed") == 3
    assert value(samples, "ocm_turn_first_byte_seconds_count") == 3
    assert value(samples, "ocm_open_streams") == 0
    assert value(samples, "ocm_credential_usable") == value(samples, "ocm_state_up") == 1


def test_unknown_models_are_no_labels(service: ServiceFactory) -> None:
    """Model names that clients make up do not become labels."""
    running = service(user_entries=USERS, workers=1)
    for number in range(3):
        running.simulator.plan(Plan(status=400))
        assert send_turn(running, model=f"made-up-{number}").status_code == 400
    text = get(running, "/metrics").text
    assert "made-up" not in text
    eventually(running, lambda found: value(found, "ocm_turns_total", user="alice", model="unknown") == 3)


def test_counts_survive_killed_workers(service: ServiceFactory) -> None:
    """Killed workers' counts remain, their open streams do not, and new workers continue the counts."""
    running = service(user_entries=USERS)
    for _ in range(4):
        send_turn(running)
    eventually(running, ended(4))
    gate = running.simulator.gate().after(1)
    with ThreadPoolExecutor(1) as pool:
        running.simulator.plan(Plan(gate=gate))
        cut = pool.submit(send_turn, running)
        assert gate.reached.wait(30)
        eventually(running, lambda found: value(found, "ocm_open_streams") == 1)
        killed = workers_of(running)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        assert isinstance(cut.exception(20), requests.RequestException)
        gate.release()
    samples = eventually(running, lambda found: value(found, "ocm_open_streams") == 0)
    assert not set(killed) & set(workers_of(running))
    assert value(samples, "ocm_turns_total", user="alice", model="gpt-5.5") == 4
    assert value(samples, "ocm_responses_total", status="200") == 4
    assert value(samples, "ocm_turn_duration_seconds_count", status="completed") == 4
    send_turn(running)
    assert value(eventually(running, ended(5)), "ocm_turns_total", user="alice", model="gpt-5.5") == 5


def test_metrics_access(service: ServiceFactory) -> None:
    """Admins and the scraper have access; users, unknown tokens and requests without a token get no numbers."""
    running = service(user_entries=USERS, workers=1, metrics_token=SCRAPER)
    for token, status in ((ADMIN, 200), (SCRAPER, 200), (ALICE, 403), ("nobodys", 401), (None, 401)):
        response = get(running, "/metrics", token)
        assert response.status_code == status
        assert ("ocm_turns" in response.text) == (status == 200)
        assert response.headers.get("Cache-Control") == ("no-store" if status == 200 else None)
    assert get(running, "/v1/models", SCRAPER).status_code == 401
    assert get(running, "/ocm/v1/status", SCRAPER).status_code == 401


def test_promtool_accepts_the_metrics(service: ServiceFactory) -> None:
    """promtool has no complaints, and the OpenMetrics format is served on request."""
    running = service(user_entries=USERS, workers=1)
    send_turn(running)
    text = get(running, "/metrics").content
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    modern = get(running, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


def test_counts_continue_after_a_restart(service: ServiceFactory) -> None:
    """The ledger's counts continue where they were."""
    before = service(user_entries=USERS)
    send_turn(before)
    assert before.stop() == 0
    after = service(user_entries=USERS, state_path=str(before.state_path))
    assert value(scrape(after), "ocm_turns_total", user="alice", model="gpt-5.5") == 1
    send_turn(after)
    assert value(scrape(after), "ocm_turns_total", user="alice", model="gpt-5.5") == 2


def test_refreshes_are_counted(service: ServiceFactory, simulator: Simulator) -> None:
    """Each attempt by its result; those that never happened are 0."""
    running = service(user_entries=USERS, workers=1, credential=simulator.credential(expires_in=-60))
    send_turn(running)
    samples = eventually(running, ended(1))
    results = ("refreshed", "refused", "failed")
    counts = {
        result: samples.get(("ocm_credential_refreshes_total", frozenset({("result", result)}))) for result in results
    }
    assert counts == {"refreshed": 1, "refused": 0, "failed": 0}


def test_a_removed_metrics_folder(service: ServiceFactory) -> None:
    """Scrapes still show the ledger's counts, and a worker that starts later counts again."""
    running = service(user_entries=USERS, workers=1)
    send_turn(running)
    eventually(running, ended(1))
    folder = folder_of(running)
    shutil.rmtree(folder)
    assert value(scrape(running), "ocm_turns_total", user="alice", model="gpt-5.5") == 1
    for pid in workers_of(running):
        os.kill(pid, signal.SIGKILL)
    send_turn(running)
    samples = eventually(running, ended(1))
    assert value(samples, "ocm_turns_total", user="alice", model="gpt-5.5") == 2
    shutil.rmtree(folder)


def test_a_missing_database(service: ServiceFactory) -> None:
    """The scrape works without it and reports it; the spooled records are counted."""
    running = service(user_entries=USERS, workers=1)
    send_turn(running)
    eventually(running, ended(1))
    database = running.state_path / "ocm.db"
    for file in running.state_path.glob("ocm.db*"):
        file.unlink()
    database.mkdir()
    send_turn(running)
    eventually(running, lambda found: value(found, "ocm_ledger_backlog_records", place="spool") == 1)
    samples = eventually(running, lambda found: value(found, "ocm_ledger_failing_workers") == 1)
    assert value(samples, "ocm_state_up") == 0
    assert value(samples, "ocm_turns_total", user="alice", model="gpt-5.5") == 0
    database.rmdir()
