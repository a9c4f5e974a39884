"""Upstream's windows through real gunicorn: plans with a week alone, ends that jitter, and other limits."""

from __future__ import annotations

import itertools
import time
from contextlib import closing

import requests
import sqlalchemy as sa

from ocm_wsgi.accounting import queries
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.simulator import Plan, ratelimits
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from tests.accounting.test_ledger import wait_until
from tests.conftest import ALICE, RunningService, ServiceFactory

DAYS = 86_400


def take_turn(running: RunningService) -> None:
    response = requests.post(
        f"{running.url}/v1/responses",
        json={"model": "gpt-5.5", "stream": True, "input": "hi"},
        headers={"Authorization": f"Bearer {ALICE}"},
        timeout=30,
    )
    assert response.status_code == 200


def status(running: RunningService) -> dict[str, object]:
    response = requests.get(
        f"{running.url}/ocm/v1/status", headers={"Authorization": f"Bearer {ALICE}"}, timeout=30
    ).json()
    found: dict[str, object] = response["service"]
    return found


def test_a_week_in_the_first_place(service: ServiceFactory) -> None:
    """A plan with a week alone has a week in rows, reports and metrics; another limit's report changes none of it."""
    running = service(workers=2, user_entries=[{"name": "alice", "token": ALICE, "admin": True}])
    now = time.time()
    week = ratelimits.week_alone(now, used_percent=40)
    jitters = itertools.cycle((0, 1, 2, 1))
    for jitter in itertools.islice(jitters, 6):
        limits = {**week, "primary": {**week["primary"], "reset_at": week["primary"]["reset_at"] + jitter}}
        running.simulator.plan(Plan(rate_limits=limits))
        take_turn(running)
    other = {"used_percent": 7, "window_minutes": 10080, "reset_at": int(now) + 6 * DAYS}
    running.simulator.plan(Plan(rate_limits={"primary": other, "metered_limit_name": "codex_bengalfox"}), times=3)
    for _ in range(3):
        take_turn(running)
    start = week["primary"]["reset_at"] - 7 * DAYS
    with closing(Database(f"sqlite:///{running.settled_database()}")) as database, database.read() as connection:
        weeks = list(connection.execute(sa.select(db.turn.c.week_start)).scalars())
    assert len(weeks) == 9
    # A worker that has only ever seen the other limit does not know the week; it never takes the other one's.
    assert len(set(weeks) - {None}) == 1
    assert abs(next(iter(set(weeks) - {None})) - start) <= 2
    wait_for_windows(running)
    service_status = status(running)
    assert [window["period"] for window in service_status["windows"]] == ["week"]  # type: ignore[attr-defined]
    metrics = requests.get(f"{running.url}/metrics", headers={"Authorization": f"Bearer {ALICE}"}, timeout=30).text
    assert 'ocm_rate_limit_used_percent{limit="codex",window="secondary"} 40.0' in metrics
    assert 'ocm_rate_limit_used_percent{limit="codex-bengalfox",window="secondary"} 7.0' in metrics
    assert 'window="primary"' not in metrics


def wait_for_windows(running: RunningService) -> None:
    """Wait until the reports of every limit are in the state database, where any worker finds them."""
    with closing(Database(f"sqlite:///{running.state_path / 'ocm.db'}")) as database:

        def are_stored() -> bool:
            with database.read() as connection:
                limits = queries.read_rate_limits(connection, DEFAULT_CREDENTIAL)
                samples = connection.scalar(sa.select(sa.func.count()).select_from(db.quota_sample))
            return limits is not None and len(limits[0]["limits"]) == 2 and bool(samples)

        wait_until(are_stored)
