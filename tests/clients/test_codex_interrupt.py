"""The real Codex client in a terminal, where a person interrupts responses in progress."""

from __future__ import annotations

from pathlib import Path

from ocm_wsgi.simulator import Plan
from tests.clients.codex import LITE_MODEL, PROGRAM, prepare_home
from tests.clients.terminal import ENTER, ESCAPE, run_in_terminal
from tests.conftest import ALICE, ServiceFactory
from tests.relay.test_live import poll
from tests.relay.test_websocket_turns import recorded

# By default Codex drops the connection on Esc, and moves into a process that outlives the terminal.
OPTIONS = ("--enable=interrupt_on_cancel", "--disable=daemon_auto_start")


def test_interrupts(service: ServiceFactory, tmp_path: Path) -> None:
    """New input, and then Esc, each end the response in progress as incomplete, with its usage; the next one goes on.

    Codex keeps the connection when new input arrives, and continues the interrupted response. Other connections, on
    which it asks for a title, wait meanwhile.
    """
    running = service(workers=1)
    simulator = running.simulator
    home = tmp_path / "home"
    environ = prepare_home(home, f"{running.url}/v1", ALICE, websockets=True, model=LITE_MODEL)
    simulator.default_plan = Plan(text="First answer, and more", silence_after=8)
    with run_in_terminal([str(PROGRAM), *OPTIONS, "say hi"], environ=environ, folder=home) as terminal:
        poll(lambda: b"First" in terminal.written)
        simulator.default_plan = Plan(text="Second answer, and more", silence_after=8)
        terminal.type(b"again")
        terminal.press(ENTER)
        poll(lambda: b"Second" in terminal.written)
        assert [turn.status for turn in simulator.turns] == ["incomplete"]
        assert simulator.creates[-1].previous_response_id == simulator.turns[0].response_id
        simulator.default_plan = Plan(text="Third answer")
        terminal.press(ESCAPE)
        poll(lambda: b"Conversation interrupted" in terminal.written)
        terminal.type(b"once more")
        terminal.press(ENTER)
        poll(lambda: b"Third" in terminal.written)
        assert [turn.status for turn in simulator.turns] == ["incomplete", "incomplete", "completed"]
    assert recorded(running)[:3] == [
        (LITE_MODEL, "incomplete", "interrupted", 56),
        (LITE_MODEL, "incomplete", "interrupted", 56),
        (LITE_MODEL, "completed", "", 56),
    ]
