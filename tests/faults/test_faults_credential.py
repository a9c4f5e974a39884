"""The owner's credential fails in mid-traffic: streams continue, no refresh token is presented twice, all recovers."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from ocm_wsgi.simulator import Gate, Plan, Simulator
from tests.faults.stack import WAIT_SECONDS, Background, Stack, bystander, eventually, workers_of

TOKEN_ENDPOINT = "/oauth/token"


def put(path: Path, content: str) -> None:
    """Replace a file atomically, as Codex does."""
    fresh = path.with_name("fresh")
    fresh.write_text(content)
    fresh.replace(path)


def truncate(path: Path) -> None:
    """Truncate the file in the middle, as if a program were still writing it."""
    content = path.read_text()
    with path.open("r+") as file:
        file.truncate(len(content) // 2)


def make_unreadable(path: Path) -> None:
    """Replace the file with something that even root cannot read."""
    path.unlink()
    path.symlink_to(path.name)


def use_up(simulator: Simulator, refresh_token: str) -> None:
    """Use a refresh token, as a program with a copy of the file would."""
    content = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    assert requests.post(f"{simulator.url}{TOKEN_ENDPOINT}", json=content, timeout=10).status_code == 200


def presented_once(simulator: Simulator) -> bool:
    """Return whether no refresh token was presented twice."""
    counts = Counter(refresh.refresh_token_sha256 for refresh in simulator.refreshes)
    return all(count == 1 for count in counts.values())


@pytest.mark.parametrize(
    ("break_it", "statuses"),
    [(truncate, {200}), (Path.unlink, {503}), (make_unreadable, {200})],
    ids=["truncated", "deleted", "unreadable"],
)
def test_credential_broken_in_mid_traffic(stack: Stack, break_it: Callable[[Path], None], statuses: set[int]) -> None:
    """Open streams complete, new requests get the promised status, and a valid file is used immediately."""
    path = stack.running.credential_path
    good = path.read_text()
    # A worker has a valid credential to fall back to only if it has seen one, and has not seen the file deleted since.
    assert stack.each_worker_serves()
    with bystander(stack):
        try:
            break_it(path)
            streams = [Background(lambda: stack.turn(route="direct")) for _ in range(8)]
            assert {stream.answer().status for stream in streams} == statuses
        finally:
            put(path, good)
        assert [stack.turn().status for _ in range(4)] == [200] * 4
    assert stack.simulator.refreshes == []


def test_credential_replaced_in_mid_traffic(stack: Stack) -> None:
    """While accounts change under traffic, each request has the token and account of one sign-in, and none fails."""
    simulator = stack.simulator
    for number in range(10):
        streams = [Background(lambda: stack.turn(route="direct")) for _ in range(6)]
        put(stack.running.credential_path, json.dumps(simulator.credential(account=f"acct-{number}")))
        assert [stream.answer().status for stream in streams] == [200] * 6
        assert stack.turn().has_ended
        assert simulator.requests[-1].field("chatgpt-account-id") == f"acct-{number}"
    # The simulator answers 401 to a token with another account, which would cause a second request for the turn.
    assert len(simulator.requests) == len(simulator.turns) == 70
    assert simulator.refreshes == []


def test_refresh_endpoint_down(start_stack: Callable[..., Stack], simulator: Simulator) -> None:
    """While the issuer is down, clients get 503 and retries are rare; the service recovers without the owner."""
    stack = start_stack(workers=1, credential=simulator.credential(expires_in=-60))
    simulator.plan(Plan(status=503), path=TOKEN_ENDPOINT)
    streams = [Background(lambda: stack.turn(route="direct")) for _ in range(20)]
    assert {stream.answer().status for stream in streams} == {503}
    assert [stack.turn(route="direct").status for _ in range(5)] == [503] * 5
    assert [refresh.outcome for refresh in simulator.refreshes] == ["refused"]
    assert eventually(stack.serves, seconds=30)
    assert [refresh.outcome for refresh in simulator.refreshes] == ["refused", "rotated"]


def test_refresh_endpoint_slow(start_stack: Callable[..., Stack], simulator: Simulator) -> None:
    """While a refresh is slow, requests wait for it and continue with its result; there is only one refresh."""
    stack = start_stack(workers=2)
    gate = Gate().at("rotated")
    with bystander(stack):
        simulator.expire()
        simulator.plan(Plan(gate=gate), path=TOKEN_ENDPOINT)
        streams = [Background(lambda: stack.turn(route="direct")) for _ in range(20)]
        assert gate.reached.wait(WAIT_SECONDS)
        gate.release()
        assert [stream.answer().has_ended for stream in streams] == [True] * 20
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]
    assert len(simulator.turns) == 21


def test_refresh_token_already_used(start_stack: Callable[..., Stack], simulator: Simulator) -> None:
    """A refresh token that was used elsewhere is presented once, and no more until the owner signs in again."""
    credential = simulator.credential(expires_in=-60)
    use_up(simulator, credential["tokens"]["refresh_token"])
    stack = start_stack(workers=2, credential=credential)
    streams = [Background(lambda: stack.turn(route="direct")) for _ in range(20)]
    answers = [stream.answer() for stream in streams]
    assert {answer.status for answer in answers} == {400}
    assert all(b"owner" in answer.body for answer in answers)
    assert [stack.turn().status for _ in range(3)] == [400] * 3
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated", "reused"]
    put(stack.running.credential_path, json.dumps(simulator.credential()))
    assert stack.serves()
    assert len(simulator.refreshes) == 2


def test_refresh_cut_off_after_rotation(start_stack: Callable[..., Stack], simulator: Simulator) -> None:
    """When the response with the new tokens is lost, the used token is presented at most once more."""
    stack = start_stack(workers=2, credential=simulator.credential(expires_in=-60))
    simulator.plan(Plan(cut_at="rotated"), path=TOKEN_ENDPOINT)
    streams = [Background(lambda: stack.turn(route="direct")) for _ in range(20)]
    assert {stream.answer().status for stream in streams} <= {400, 503}
    # Each worker backs off separately; twelve responses in a row come from both.
    assert eventually(lambda: {stack.turn(route="direct").status for _ in range(12)} == {400}, seconds=30)
    # Workers that start later have not seen the refusal.
    before = set(workers_of(stack.running))
    stack.running.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: not before & (now := set(workers_of(stack.running))) and len(now) == 2)
    assert {stack.turn(route="direct").status for _ in range(4)} == {400}
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated", "reused"]
    put(stack.running.credential_path, json.dumps(simulator.credential()))
    assert stack.serves()
    assert len(simulator.refreshes) == 2


@pytest.mark.slow
def test_twenty_expiries_under_load(start_stack: Callable[..., Stack], simulator: Simulator) -> None:
    """However often access tokens expire under load, no turn is lost or doubled, no refresh token presented twice."""
    stack = start_stack(workers=2)
    path = stack.running.credential_path
    for number in range(1, 21):
        # The same sign-in, with its chain of refresh tokens; only the access token has expired.
        content = json.loads(path.read_text())
        content["tokens"]["access_token"] = simulator.credential(expires_in=-60)["tokens"]["access_token"]
        put(path, json.dumps(content))
        streams = [Background(lambda: stack.turn(route="direct")) for _ in range(8)]
        answers = [stream.answer() for stream in streams]
        assert [(answer.status, answer.has_ended) for answer in answers] == [(200, True)] * 8
        assert len(simulator.refreshes) == number
        assert len(simulator.turns) == 8 * number
    assert presented_once(simulator)
    assert {refresh.outcome for refresh in simulator.refreshes} == {"rotated"}
