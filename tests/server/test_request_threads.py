"""Requests of a real service are decided about for all users in turn, while open streams continue."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ocm_wsgi.simulator import Gate, Plan
from tests.api_requests import BODY, LENGTH, connected, head, post, read_response, receive_until
from tests.conftest import ALICE, BOB, ServiceFactory

# gunicorn's settings as usual, but each request is held where its decision begins until there is a file for it.
SETTINGS = """
import pathlib, time
from ocm_wsgi.gunicorn_conf import *
from ocm_wsgi.relay import decision_queue
from ocm_wsgi.server import hooks

folder = pathlib.Path({folder!r})
decision_queue.DECISION_SECONDS = 1e6
submit = decision_queue.DecisionQueue.submit

def note(name, line):
    with (folder / name).open("a") as file:
        file.write(line + "\\n")

def submit_and_note(self, user, *arguments, **options):
    submit(self, user, *arguments, **options)
    note("submitted", user)

decision_queue.DecisionQueue.submit = submit_and_note

def pre_request(worker, request):
    hooks.pre_request(worker, request)
    note("begun", request.query)
    while not (folder / "gate").exists():
        time.sleep(0.01)
"""


class Journal:
    """What the service has noted.

    :param folder: shared with the service.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open_gate(self) -> None:
        """Let the requests go on that are held, and those that follow."""
        (self._folder / "gate").touch()

    def close_gate(self) -> None:
        """Hold the requests that begin from now on, and forget what was noted."""
        (self._folder / "gate").unlink()
        for name in ("submitted", "begun"):
            (self._folder / name).unlink()

    def lines(self, name: str) -> list[str]:
        """Return what was noted."""
        path = self._folder / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the service has noted something."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_users_take_turns_while_streams_continue(service: ServiceFactory, tmp_path: Path) -> None:
    """While a decision is held, an open stream continues; then other users come before all but one of the first's."""
    journal = Journal(tmp_path)
    settings = tmp_path / "settings.py"
    settings.write_text(SETTINGS.format(folder=str(tmp_path)))
    running = service(workers=1, arguments=("--config", str(settings)))
    journal.open_gate()
    for token in (ALICE, BOB):  # Afterwards the service recognises their requests.
        assert post(running, token=token).status_code == 200
    gate = Gate().after(1)
    running.simulator.plan(Plan(text="Hello, world!", gate=gate))
    with ExitStack() as open_connections:
        stream = open_connections.enter_context(connected(running))
        stream.sendall(head(**LENGTH) + BODY)
        receive_until(stream, b"response.created")
        journal.close_gate()
        connections = []
        for count, (token, name) in enumerate(
            [(ALICE, "a1"), (ALICE, "a2"), (ALICE, "a3"), (ALICE, "a4"), (BOB, "b1")]
        ):
            connection = open_connections.enter_context(connected(running))
            connection.sendall(head("POST", f"/v1/responses?{name}", token, **LENGTH) + BODY)
            connections.append(connection)
            journal.wait_for(lambda count=count: len(journal.lines("submitted")) == count + 1)  # type: ignore[misc]
        journal.wait_for(lambda: journal.lines("begun") == ["a1"])
        gate.release()
        receive_until(stream, b"response.completed")
        assert journal.lines("begun") == ["a1"]
        journal.open_gate()
        assert [read_response(connection)[0] for connection in connections] == [200] * 5
    assert journal.lines("submitted") == ["alice"] * 4 + ["bob"]
    assert journal.lines("begun") == ["a1", "a2", "b1", "a3", "a4"]
