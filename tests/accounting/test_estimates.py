"""Which turns without usage are charged an estimate."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocm_wsgi.accounting.estimates import Observed, estimated_usage
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.estimate import InputMeter
from ocm_wsgi.protocol.responses.observer import observer_for
from ocm_wsgi.protocol.responses.turn import Outcome, TurnStatus, Usage
from ocm_wsgi.simulator import tokens
from tests.protocol.responses.test_estimate import FEW_TOKENS, KINDS, TEXTS, deltas_of, events_of, message, split

SEEN = Observed(
    http_status=200,
    family="responses",
    input_tokens=100,
    output_tokens=40,
    has_begun=True,
    was_left=False,
    seconds=2.0,
)
SILENT = replace(SEEN, output_tokens=0)


@pytest.mark.parametrize(
    ("status", "observed", "expected"),
    [
        pytest.param("completed", SEEN, (100, 100), id="completed-without-usage"),
        pytest.param("completed", replace(SEEN, output_tokens=400), (100, 400), id="more-passed-than-by-time"),
        pytest.param("incomplete", SEEN, (100, 100), id="incomplete"),
        pytest.param("cut", SEEN, (100, 40), id="upstream-cut-it"),
        pytest.param("cut", replace(SEEN, was_left=True), (100, 100), id="the-client-left"),
        pytest.param("cut", SILENT, (100, 0), id="upstream-cut-it-before-any-output"),
        pytest.param("cut", replace(SILENT, was_left=True), (100, 100), id="the-client-left-during-reasoning"),
        pytest.param("cut", replace(SILENT, has_begun=False), None, id="upstream-cut-it-before-its-response"),
        pytest.param("cut", replace(SILENT, has_begun=False, was_left=True), (100, 100), id="left-at-once"),
        pytest.param("failed", SEEN, (100, 40), id="failed-with-output"),
        pytest.param("failed", SILENT, None, id="failed-without-output"),
        pytest.param("error", SEEN, (100, 40), id="error-event-with-output"),
        pytest.param("error", SILENT, None, id="error-event"),
        pytest.param("error", replace(SEEN, http_status=429), None, id="refused"),
        pytest.param("cut", replace(SEEN, http_status=500, was_left=True), None, id="refused-and-left"),
        pytest.param("completed", replace(SEEN, family="embeddings"), (100, 0), id="embeddings"),
        pytest.param("completed", replace(SEEN, family="chat"), (100, 100), id="chat"),
        pytest.param("completed", replace(SEEN, family="speech"), None, id="no-text"),
    ],
)
def test_estimated_usage(status: TurnStatus, observed: Observed, expected: tuple[int, int] | None) -> None:
    """What upstream refused costs nothing; what it began costs its input, and what passed or the time that it took."""
    found = estimated_usage(Outcome(status), observed)
    assert found == (None if expected is None else Usage(expected[0], 0, expected[1]))


@settings(max_examples=60, deadline=None)
@given(
    kind=KINDS,
    asked=st.integers(100, 5_000),
    written=st.integers(100, 8_000),
    part=st.floats(0.0, 1.0),
    how=st.sampled_from(["events", "random", "large", "small"]),
    was_left=st.booleans(),
)
def test_no_turn_is_too_cheap(kind: str, asked: int, written: int, part: float, how: str, was_left: bool) -> None:
    """Wherever a turn is cut or left, it is charged no less than the simulator counts, but for the stated error."""
    text, (least, _) = TEXTS[kind]
    request = {"model": "gpt-5.5", "input": [message(text[:asked])]}
    meter = InputMeter()
    meter.feed(json.dumps(request).encode())
    events = events_of(text[:written], 0)
    passed = events[: 1 + int((len(events) - 1) * part)]
    observer = observer_for(status=200, media_type="text/event-stream")
    for read in split(passed, how):
        observer.feed(read)
    outcome = observer.finish(complete=False)
    seen = replace(
        SEEN, input_tokens=meter.finish(), output_tokens=observer.output_tokens(), was_left=was_left, seconds=0.0
    )
    charged = estimated_usage(outcome, seen)
    assert charged is not None
    exact = tokens.usage(request, deltas_of(passed))
    total = exact["input_tokens"] + exact["output_tokens"]
    assert charged.input_tokens + charged.output_tokens >= (least - 0.1) * total - FEW_TOKENS


def test_every_family_is_decided() -> None:
    """No kind of turn makes the decision fail."""
    for family in get_args(Family):
        estimated_usage(Outcome("completed"), replace(SEEN, family=family))
