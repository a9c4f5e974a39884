"""Which turn each of upstream's events concerns: several lanes, steered responses, and responses nobody asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses.turn import Outcome, Usage
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.session import TurnBegan, TurnDropped, TurnEnded, WebSocketSession
from tests.websocket_peers import Peer

USAGE = {"input_tokens": 5, "output_tokens": 7}


class Scene:
    """A session, its turns by name, and what upstream's events meant for them.

    :ivar happened: ``began x``, ``ended x status``, ``dropped x`` in order.
    """

    def __init__(self) -> None:
        self.session: WebSocketSession[str] = WebSocketSession(None, lambda model: f"adopted-{model}")
        self.happened: list[str] = []
        self._client = Peer(is_client=True)

    def ask(self, turn: str | None, type_: str = "response.create", **members: object) -> Scene:
        """Send a message, and admit the turn that it asks for."""
        (held,) = self.session.from_client(self._client.text(json.dumps({"type": type_, **members}).encode()))
        assert isinstance(held, HeldMessage)
        held.read()
        self.session.forward(turn)
        return self

    def tell(self, type_: str, **members: Any) -> Scene:
        """Let upstream send an event."""
        for item in self.session.from_server(Peer().text(json.dumps({"type": type_, **members}).encode())):
            if isinstance(item, TurnBegan):
                self.happened.append(f"began {item.turn}")
            elif isinstance(item, TurnEnded):
                self.happened.append(f"ended {item.turn} {item.outcome.error_code or item.outcome.status}")
            elif isinstance(item, TurnDropped):
                self.happened.append(f"dropped {item.turn}")
        return self

    def create(self, id_: str, parent: str | None = None, **members: object) -> Scene:
        """Let upstream create a response."""
        return self.tell("response.created", response={"id": id_, "previous_response_id": parent}, **members)

    def complete(self, id_: str, **members: object) -> Scene:
        """Let upstream complete a response."""
        return self.tell("response.completed", response={"id": id_, "usage": USAGE}, **members)

    def stop(self, id_: str, reason: str) -> Scene:
        """Let upstream end a response before its time."""
        response = {"id": id_, "incomplete_details": {"reason": reason}, "usage": USAGE}
        return self.tell("response.incomplete", response=response)

    def steer_reply(self, kind: str, parent: str, id_: str | None = None) -> Scene:
        """Let upstream reply to a steer."""
        steer: Mapping[str, object] = {"previous_response_id": parent} | ({} if id_ is None else {"id": id_})
        return self.tell(f"response.steer.{kind}", steer=steer)

    def left(self) -> list[str]:
        """Return the turns that the end of the connection ends."""
        return [end.turn for end in self.session.end()]


def test_lanes_end_out_of_order() -> None:
    """Responses of several lanes are distinguished by their IDs, in whatever order they begin and end."""
    scene = Scene().ask("a1", stream_id="a").ask("b", stream_id="b").ask("a2", stream_id="a").ask("none")
    scene.create("rb", stream_id="b").create("rn").create("ra1", stream_id="a")
    scene.complete("rb", stream_id="b").complete("ra1", stream_id="a").create("ra2", stream_id="a")
    scene.complete("ra2", stream_id="a").complete("rn")
    assert scene.happened == [
        *("began b", "began none", "began a1", "ended b completed", "ended a1 completed", "began a2"),
        *("ended a2 completed", "ended none completed"),
    ]
    assert scene.left() == []


@given(st.permutations(range(6)), st.permutations(range(6)), st.booleans())
def test_any_order(begin: list[int], end: list[int], same_id: bool) -> None:
    """Each response ends its own turn, whatever the order."""
    scene = Scene()
    for number in range(6):
        scene.ask(f"t{number}", stream_id=f"lane{number}")
    for number in begin:
        scene.create(f"r{number}", stream_id=f"lane{number}")
    for number in end:
        scene.complete(f"r{number}", **({"stream_id": f"lane{number}"} if same_id else {}))
    assert scene.happened == [f"began t{number}" for number in begin] + [f"ended t{n} completed" for n in end]


def test_error_ends_the_turn_of_its_lane() -> None:
    """An error with a lane ends a turn of that lane: one without a response unless the error belongs to a response."""
    scene = Scene().ask("a1", stream_id="a").ask("a2", stream_id="a").ask("b", stream_id="b").ask("none")
    scene.create("ra1", stream_id="a").create("rb", stream_id="b")
    scene.tell("error", status=400, error={"code": "e1"}, stream_id="b")
    scene.tell("error", status=400, error={"code": "e2"}, stream_id="a")
    scene.tell("error", status=400, error={"code": "e3"}, stream_id="a", sequence_number=3)
    scene.tell("error", status=400, error={"code": "e4"}).tell("error", status=400, error={"code": "e5"})
    assert scene.happened == ["began a1", "began b", "ended b e1", "ended a2 e2", "ended a1 e3", "ended none e4"]


def test_error_without_a_lane_ends_a_turn_that_waits() -> None:
    """An error without a lane, if there are only others, ends the first turn that has no response yet."""
    scene = Scene().ask("a", stream_id="a").ask("b", stream_id="b").create("ra", stream_id="a")
    assert scene.tell("error", status=400, error={"code": "e"}).happened == ["began a", "ended b e"]


def test_steered_response_is_followed_by_another() -> None:
    """A steer opens a turn, which begins when the steered response has ended and its successor is created."""
    scene = Scene().ask("first", stream_id="a").create("r1", stream_id="a")
    scene.ask("steer", "response.steer", previous_response_id="r1").steer_reply("accepted", "r1", "s1")
    scene.stop("r1", "steered").create("r2", "r1", stream_id="a").complete("r2", stream_id="a")
    assert scene.happened == ["began first", "ended first steered", "began steer", "ended steer completed"]
    assert scene.left() == []


def test_steers_of_one_response_share_its_successor() -> None:
    """What several steers ask for goes into one response, which is one turn; a later steer has another."""
    scene = Scene().ask("first").create("r1")
    for name in ("s1", "s2"):
        scene.ask(name, "response.steer", previous_response_id="r1").steer_reply("accepted", "r1", name)
    scene.ask("s3", "response.steer", previous_response_id="r1")
    scene.stop("r1", "steered").create("r2", "r1").complete("r2")
    assert scene.happened == ["began first", "ended first steered", "began s1", "dropped s2", "ended s1 completed"]
    assert scene.steer_reply("failed", "r1").happened[-1] == "dropped s3"
    assert scene.left() == []


def test_failed_steer_is_dropped() -> None:
    """A steer that fails, before or after it was accepted, has no response."""
    scene = Scene().ask("first").create("r1")
    scene.ask("s1", "response.steer", previous_response_id="r1").steer_reply("failed", "r1")
    scene.ask("s2", "response.steer", previous_response_id="r1").steer_reply("accepted", "r1", "s2")
    scene.steer_reply("failed", "r1", "s2").steer_reply("failed", "r1", "unknown").tell("response.steer.failed")
    assert scene.happened == ["began first", "dropped s1", "dropped s2"]
    assert scene.left() == ["first"]


def test_pending_steer_becomes_part_of_the_next_request() -> None:
    """If the steered response waits for a tool, the client's next request takes the steer over."""
    scene = Scene().ask("first").create("r1")
    scene.ask("s1", "response.steer", previous_response_id="r1").steer_reply("accepted", "r1", "s1")
    scene.complete("r1").steer_reply("pending", "r1", "s1")
    scene.ask("second", previous_response_id="r1").create("r2", "r1").complete("r2")
    assert scene.happened == [
        *("began first", "ended first completed", "dropped s1", "began second", "ended second completed"),
    ]


def test_steer_that_a_request_overtakes() -> None:
    """The request may also come first, and take the steer over without notice."""
    scene = Scene().ask("first").create("r1")
    scene.ask("s1", "response.steer", previous_response_id="r1").steer_reply("accepted", "r1", "s1")
    scene.complete("r1").ask("second", previous_response_id="r1").create("r2", "r1").complete("r2")
    assert scene.happened[2:] == ["began second", "ended second completed", "dropped s1"]
    assert scene.left() == []


def test_request_and_steer_of_one_response() -> None:
    """If both a request and a steer of the same response get a response, both are turns."""
    scene = Scene().ask("first").create("r1")
    scene.ask("s1", "response.steer", previous_response_id="r1").steer_reply("accepted", "r1", "s1")
    scene.complete("r1").ask("second", previous_response_id="r1").create("r2", "r1").create("r3", "r1")
    scene.complete("r2").complete("r3")
    assert scene.happened[2:] == ["began second", "began s1", "ended second completed", "ended s1 completed"]


def test_steer_of_a_response_that_ended() -> None:
    """A response that has ended lately can be steered; its turn is known, and older ones are forgotten."""
    scene = Scene()
    for number in range(20):
        scene.ask(f"t{number}", stream_id="a").create(f"r{number}", stream_id="a").complete(f"r{number}")
    assert scene.session.turn_of("r19") == "t19"
    assert scene.session.turn_of("r0") is None
    scene.ask("steer", "response.steer", previous_response_id="r19").steer_reply("accepted", "r19", "s")
    scene.create("r20", "r19", stream_id="a")
    assert scene.happened[-1] == "began steer"


def test_unexpected_response_is_a_turn() -> None:
    """A response that no message asked for counts: when it is created, or if it ends with usage."""
    scene = Scene().tell("response.created", response={"id": "r1", "model": "m"}, stream_id="x").complete("r1")
    assert scene.happened == ["began adopted-m", "ended adopted-m completed"]
    scene = Scene().ask("first").create("r1").tell("response.completed", response={"id": "r9", "usage": USAGE})
    assert scene.happened == ["began first", "ended adopted-None completed"]
    assert scene.left() == ["first"]


def test_end_that_names_no_response() -> None:
    """It ends the turn of its lane that has begun, else one that has not, else the first that has begun at all."""
    scene = Scene().ask("a1", stream_id="a").ask("a2", stream_id="a").ask("b").create("ra", stream_id="a")
    for _ in range(4):
        scene.tell("response.completed", response={"usage": USAGE})
    assert scene.happened == [
        *("began a1", "ended b completed", "ended a1 completed", "ended adopted-None completed"),
        "ended adopted-None completed",
    ]
    assert scene.left() == ["a2"]


def test_events_without_what_is_expected() -> None:
    """Events in another shape are skipped, and the turns stay open."""
    scene = Scene().ask("first").ask("s", "response.steer", previous_response_id="r1")
    for type_ in ("response.created", "response.steer.accepted", "response.steer.pending"):
        for members in ({}, {"response": 3, "steer": []}, {"response": {"id": 5}, "steer": {"id": "x"}}):
            scene.tell(type_, **members)
    scene.steer_reply("accepted", "r1")
    assert scene.happened == []
    assert scene.left() == ["first", "s"]


def test_interrupted_response_is_incomplete() -> None:
    """An interrupted response ends its turn with the reason and its usage."""
    scene = Scene().ask("first").create("r1").ask(None, "response.interrupt", response_id="r1")
    response = {"id": "r1", "incomplete_details": {"reason": "interrupted"}, "usage": USAGE}
    text = json.dumps({"type": "response.incomplete", "response": response}).encode()
    assert scene.session.from_server(Peer().text(text))[0] == TurnEnded(
        "first", Outcome("incomplete", usage=Usage(5, 0, 7), error_code="interrupted")
    )


NAMES = st.sampled_from(["r1", "r2", "r3", None])
LANES = st.sampled_from([{}, {"stream_id": "a"}, {"stream_id": "b"}, {"stream_id": 3}])
STEPS = st.one_of(
    st.tuples(st.just("create"), NAMES, LANES),
    st.tuples(st.just("steer"), NAMES, st.just({})),
    st.tuples(st.just("created"), NAMES, LANES),
    st.tuples(st.sampled_from(["completed", "incomplete", "failed"]), NAMES, LANES),
    st.tuples(st.sampled_from(["steer.accepted", "steer.pending", "steer.failed"]), NAMES, st.just({})),
    st.tuples(st.just("error"), st.sampled_from([None, 400]), LANES),
)


@given(st.lists(st.tuples(STEPS, NAMES), max_size=40))
def test_every_turn_ends_once(steps: list[tuple[tuple[str, Any, dict[str, Any]], str | None]]) -> None:
    """Whatever happens in whatever order, each turn that was opened ends or is dropped exactly once."""
    scene = Scene()
    opened = []
    for number, ((step, name, members), parent) in enumerate(steps):
        if step in ("create", "steer"):
            opened.append(f"t{number}")
            scene.ask(opened[-1], f"response.{step}", previous_response_id=name, **members)
        elif step == "error":
            scene.tell("error", status=name, error={"code": "e"}, **members)
        elif step.startswith("steer"):
            scene.tell(f"response.{step}", steer={"id": parent, "previous_response_id": name})
        else:
            response = {"id": name, "previous_response_id": parent, "usage": USAGE}
            scene.tell(f"response.{step}", response=response, **members)
    left = [f"ended {turn}" for turn in scene.left()]
    ends = [happened for happened in [*scene.happened, *left] if not happened.startswith("began")]
    finished = [end.split()[1] for end in ends]
    assert sorted(turn for turn in finished if not turn.startswith("adopted")) == sorted(opened)
    assert len(scene.session.end()) == 0
