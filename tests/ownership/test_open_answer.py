"""No ID reaches the client before its owner is recorded, however upstream's answer is cut into pieces."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.ownership.access import Access, claiming_answer
from ocm_wsgi.ownership.open_answer import OpenAnswer
from ocm_wsgi.protocol.endpoints.endpoint import Endpoint
from ocm_wsgi.protocol.endpoints.table import PLATFORM
from ocm_wsgi.protocol.objects.stored_object import NamedObject
from ocm_wsgi.protocol.responses.references import references_in
from ocm_wsgi.protocol.responses.request import RequestFacts

ID = "resp_0123456789abcdef"
RESPONSE = {
    "id": ID,
    "object": "response",
    "status": "completed",
    "metadata": {"id": "resp_forged", "output_file_id": "file-forged"},
    "output": [
        {"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": '{"id": "resp_forged"}'}]},
        {"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_1"},
    ],
    "store": True,
    "usage": None,
}
STREAM = b"".join(
    f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    for event in (
        {"type": "response.created", "response": {**RESPONSE, "output": []}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.completed", "response": RESPONSE},
    )
)
NAMES = [(ID, "response"), ("msg_1", "item"), ("ci_1", "item"), ("cntr_1", "container")]


class SlowOwners:
    """Owners whose claims become durable when the test says so."""

    def __init__(self) -> None:
        self.claimed: list[tuple[str, str]] = []
        self.user = ""
        self.pending: list[tuple[list[NamedObject], Callable[[Any], None]]] = []

    def claim(self, user: str, objects: Collection[NamedObject], *, credential: str, turn: str | None = None) -> None:
        self.user = user
        self.claimed += [(each.id, each.kind) for each in objects]

    def claim_async(
        self,
        user: str,
        objects: Collection[NamedObject],
        on_recorded: Callable[[Any], None],
        *,
        credential: str,
        turn: str | None = None,
    ) -> None:
        self.user = user
        self.pending.append((list(objects), on_recorded))

    def become_durable(self) -> None:
        for objects, on_recorded in self.pending:
            self.claim(self.user, objects, credential="default")
            on_recorded("database")
        self.pending.clear()


def answer(
    owners: SlowOwners, method: str = "POST", path: str = "responses", *, media_type: str, coding: str = ""
) -> OpenAnswer:
    """Return the answer to a request that is no turn, which a turn's answer contains."""
    endpoint: Endpoint = PLATFORM.find(method, path, is_admin=False)
    access = Access("alice", endpoint, None, None, references_in, True, None)
    fields = [("Content-Type", media_type), ("Content-Encoding", coding)]
    opened = claiming_answer(owners, None, access, 200, fields, None, facts=RequestFacts())  # type: ignore[arg-type]
    assert opened is not None
    return opened


def relayed(opened: OpenAnswer, owners: SlowOwners, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what a relay sends, and check that it sends no ID before its claim is durable."""
    sent = b""

    def check(passing: bytes) -> bytes:
        nonlocal sent
        sent += passing
        claimed = [name for name, _ in owners.claimed]
        assert ID in claimed or ID.encode() not in sent
        return passing

    def settle() -> Iterator[bytes]:
        while opened.is_due:
            durable: list[object] = []
            opened.record_async(durable.append)
            owners.become_durable()
            assert len(durable) == 1
            yield check(opened.release())

    for piece in pieces:
        yield check(opened.feed(piece))
        yield from settle()
    opened.finish()
    yield from settle()
    yield check(opened.release())


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Yield the data in pieces."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        if start < stop:
            yield data[start:stop]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_names_its_objects_after_they_are_claimed(cuts: list[int]) -> None:
    """The response is claimed with its first event, its items with its last; the bytes stay the same."""
    owners = SlowOwners()
    opened = answer(owners, media_type="text/event-stream")
    assert b"".join(relayed(opened, owners, split(STREAM, cuts))) == STREAM
    assert (owners.user, owners.claimed) == ("alice", NAMES)


@given(st.lists(st.integers(0, 2000), max_size=12))
def test_an_object_is_sent_in_full_after_it_is_claimed(cuts: list[int]) -> None:
    """The last byte waits for the claim, also of an encoded answer."""
    body = json.dumps(RESPONSE).encode()
    for data, coding in ((body, ""), (gzip.compress(body), "gzip")):
        owners = SlowOwners()
        opened = answer(owners, media_type="application/json", coding=coding)
        pieces = list(split(data, cuts))
        sent = b"".join(opened.feed(piece) for piece in pieces)
        assert sent == data[:-1]
        opened.finish()
        assert opened.is_due
        assert b"".join(opened.observed(iter(()))) == data[-1:]
        assert owners.claimed == NAMES


def test_an_encoded_stream_waits_too() -> None:
    """The first event is found in the decoded stream."""
    owners = SlowOwners()
    opened = answer(owners, media_type="text/event-stream", coding="gzip")
    data = gzip.compress(STREAM)
    assert b"".join(opened.observed(split(data, list(range(0, len(data), 7))))) == data
    assert owners.claimed == NAMES


def test_a_client_that_leaves_owns_what_was_created() -> None:
    """A response in the background goes on, and is still its creator's."""
    owners = SlowOwners()
    opened = answer(owners, media_type="text/event-stream")
    assert opened.feed(STREAM[: STREAM.index(b"\n\n") + 2]) == b""
    opened.close_async()
    owners.become_durable()
    assert owners.claimed == NAMES[:1]


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("files", {"id": "file-1", "object": "file"}, [("file-1", "file")]),
        (
            "uploads/upload_1/complete",
            {"id": "upload_1", "object": "upload", "file": {"id": "file-1"}},
            [("file-1", "file")],
        ),
        ("uploads/upload_1/complete", {"id": "upload_1", "object": "upload", "file": None}, []),
        ("threads/runs", {"id": "run_1", "thread_id": "thread_1"}, [("thread_1", "thread")]),
        ("batches", {"id": "batch_1", "output_file_id": None, "input_file_id": "file-9"}, [("batch_1", "batch")]),
        ("files", {"id": 3}, []),
        ("files", {"id": "a b\n"}, []),
        ("files", ["file-1"], []),
        ("responses", {"id": "resp_1", "object": "response", "store": False, "output": [{"id": "msg_1"}]}, []),
    ],
)
def test_what_an_answer_names(path: str, body: Any, named: list[tuple[str, str]]) -> None:
    """IDs count only where upstream puts those of new objects."""
    owners = SlowOwners()
    opened = answer(owners, path=path, media_type="application/json")
    data = json.dumps(body).encode()
    assert b"".join(opened.observed(iter([data]))) == data
    assert owners.claimed == named


def test_errors_name_nothing() -> None:
    """An answer that is not a success creates nothing; an ID in it is the client's own text."""
    access = Access("alice", PLATFORM.find("POST", "files", is_admin=False), None, None, references_in, True, None)
    fields = [("Content-Type", "application/json")]
    for status in (199, 302, 400, 500):
        assert claiming_answer(SlowOwners(), None, access, status, fields, None, facts=RequestFacts()) is None  # type: ignore[arg-type]
