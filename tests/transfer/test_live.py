"""Moving the state of a running service."""

from __future__ import annotations

import os
import time
from contextlib import closing

from ocm_wsgi.accounting import queries
from ocm_wsgi.storage.database import Database
from tests.api_requests import post
from tests.conftest import RunningService, ServiceFactory
from tests.forkserver import run_flask_ocm
from tests.postgresql_server import PostgresqlServer


def ocm(running: RunningService, *arguments: str, **environ: str) -> tuple[int, str]:
    """Run a command with the service's configuration; return its exit status and output."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "OCM_CONFIG": str(running.folder / "ocm.json"),
    }
    done = run_flask_ocm(*arguments, environment={**environment, **environ}, folder=running.folder)
    return done.returncode, done.stdout + done.stderr


def turns(url: str) -> int:
    """Return the number of turns in the sums."""
    with closing(Database(url)) as database, database.read() as connection:
        (total,) = queries.sums(connection, None, None, (), user=None, utc_offset_seconds=0)
    return total.counts.turns


def wait_for_turns(url: str, count: int) -> None:
    """Wait until so many turns are in the sums, and no more."""
    deadline = time.monotonic() + 60
    while turns(url) != count:
        assert time.monotonic() < deadline, turns(url)
        time.sleep(0.05)


def test_running_service(service: ServiceFactory, postgresql: PostgresqlServer) -> None:
    """A running service is backed up, its state is replaced under it, and it continues with what was restored.

    Then it moves from SQLite to PostgreSQL.
    """
    running = service(workers=2)
    url, server_url = f"sqlite:///{running.state_path}/ocm.db", postgresql.url
    assert [post(running).status_code for _ in range(3)] == [200] * 3
    wait_for_turns(url, 3)
    assert ocm(running, "backup", "file")[0] == 0
    assert [post(running).status_code for _ in range(2)] == [200] * 2
    wait_for_turns(url, 5)
    status, output = ocm(running, "restore", "file")
    assert (status, "The state is not empty" in output) == (1, True), output
    status, output = ocm(running, "restore", "file", "--force")
    assert status == 0, output
    assert turns(url) == 3
    assert [post(running).status_code for _ in range(4)] == [200] * 4
    wait_for_turns(url, 7)
    running.stop()
    assert ocm(running, "backup", "moved")[0] == 0
    status, output = ocm(running, "restore", "moved", OCM_DATABASE_URL=server_url)
    assert status == 0, output
    moved = service(workers=1, database_url=server_url)
    assert post(moved).status_code == 200
    wait_for_turns(server_url, 8)
