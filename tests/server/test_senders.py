"""Recognising the user of a request's head, to queue it fairly."""

from __future__ import annotations

import pytest

from ocm_wsgi.relay.decision_queue import STRANGER
from ocm_wsgi.server import senders
from ocm_wsgi.server.senders import Senders

HEAD = b"POST /v1/responses HTTP/1.1\r\nHost: ocm\r\n%s\r\n\r\n"


@pytest.fixture
def known() -> Senders:
    """Return the senders after an accepted request of alice."""
    known = Senders()
    known.learn({"HTTP_AUTHORIZATION": "Bearer sk-ocm-alice"}, "alice")
    return known


@pytest.mark.parametrize(
    ("lines", "user"),
    [
        pytest.param(b"Authorization: Bearer sk-ocm-alice", "alice", id="as-before"),
        pytest.param(b"authorization:\t Bearer sk-ocm-alice \r\nAccept: */*", "alice", id="spelled-otherwise"),
        pytest.param(b"Authorization: Bearer sk-ocm-bob", STRANGER, id="another-token"),
        pytest.param(b"Authorization: ", STRANGER, id="empty"),
        pytest.param(b"X-Authorization: Bearer sk-ocm-alice", STRANGER, id="another-field"),
        pytest.param(b"Accept: */*", STRANGER, id="none"),
        pytest.param(b"Authorization: Bearer \xff\xfe", STRANGER, id="no-text"),
    ],
)
def test_user_of(known: Senders, lines: bytes, user: str) -> None:
    """Only a token that was accepted before has a queue of its own."""
    assert known.user_of(HEAD % lines) == user


def test_changed_user(known: Senders) -> None:
    """A token that belongs to another user now is recognised as theirs."""
    known.learn({"HTTP_AUTHORIZATION": "Bearer sk-ocm-alice"}, "alina")
    assert known.user_of(HEAD % b"Authorization: Bearer sk-ocm-alice") == "alina"
    known.learn({}, "nobody")


def test_most_senders(known: Senders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many tokens the oldest are forgotten, and queue as strangers until they are accepted again."""
    monkeypatch.setattr(senders, "MOST_SENDERS", 2)
    for name in ("bob", "carol"):
        known.learn({"HTTP_AUTHORIZATION": f"Bearer sk-ocm-{name}"}, name)
    found = [
        known.user_of(HEAD % f"Authorization: Bearer sk-ocm-{name}".encode()) for name in ("alice", "bob", "carol")
    ]
    assert found == [STRANGER, "bob", "carol"]
