"""A list contains the user's own objects only, in upstream's order, page by page, and says nothing of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.errors import BadRequest, ListRefused
from ocm_wsgi.ownership.lists import MOST_PAGES, PAGE_SIZE, owned_list
from ocm_wsgi.simulator import Plan
from tests.clients.test_openai_sdk import connect
from tests.conftest import ALICE, BOB, RunningService
from tests.ownership.conftest import CAROL, Call


class Upstream:
    """A list of upstream's."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.queries: list[dict[str, list[str]]] = []

    def fetch(self, query: str) -> Mapping[str, Any]:
        """Return one page."""
        self.queries.append(parse_qs(query))
        after = self.queries[-1].get("after", [""])[0]
        start = self.ids.index(after) + 1 if after in self.ids else 0
        stop = start + int(self.queries[-1]["limit"][0])
        data = [{"id": each, "object": "file"} for each in self.ids[start:stop]]
        return {"object": "list", "data": data, "has_more": stop < len(self.ids), "total": len(self.ids)}


@given(st.lists(st.booleans(), max_size=450), st.integers(1, 150))
def test_all_pages_together_are_ones_own(owned: list[bool], limit: int) -> None:
    """However the user's objects are spread among those of others, and however many are asked for at a time."""
    upstream = Upstream([f"file-{number}" for number in range(len(owned))])
    own = [each for each, is_own in zip(upstream.ids, owned, strict=True) if is_own]
    collected: list[str] = []
    query, page = f"limit={limit}", owned_list(own, f"limit={limit}", upstream.fetch)
    while page["data"]:
        assert len(page["data"]) <= min(limit, PAGE_SIZE)
        collected += [each["id"] for each in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], collected[-1])
        if not page["has_more"]:
            break
        page = owned_list(own, f"{query}&after={collected[-1]}", upstream.fetch)
    assert collected == own
    assert page.keys() == {"object", "data", "first_id", "last_id", "has_more"}


def test_nothing_is_asked_for_who_has_nothing() -> None:
    """An empty list needs no request, and other members of a query are passed on otherwise."""
    upstream = Upstream(["file-1", "file-2"])
    assert owned_list([], "purpose=batch", upstream.fetch)["data"] == []
    assert upstream.queries == []
    owned_list(["file-1"], "purpose=batch&order=asc&metadata[a]=b", upstream.fetch)
    assert upstream.queries == [{"purpose": ["batch"], "order": ["asc"], "metadata[a]": ["b"], "limit": ["100"]}]


@pytest.mark.parametrize(
    "query", ["before=file-1", "limit=0", "limit=x", "limit=1&limit=2", "limit=\u0665", "limit=-1"]
)
def test_queries_that_cannot_be_followed(query: str) -> None:
    """They are refused with a sentence."""
    with pytest.raises(BadRequest):
        owned_list(["file-1"], query, Upstream(["file-1"]).fetch)


@pytest.mark.parametrize("page", [{}, {"data": {}}, {"data": ["file-1"]}, {"data": [{"id": 1}]}])
def test_lists_of_another_form_are_refused(page: Mapping[str, Any]) -> None:
    """What is not known to be the user's is not shown."""
    with pytest.raises(ListRefused):
        owned_list(["file-1"], "", lambda _query: page)


def test_a_list_that_is_too_long() -> None:
    """The number of requests is bounded."""
    upstream = Upstream([f"file-{number}" for number in range(PAGE_SIZE * MOST_PAGES + 1)])
    with pytest.raises(ListRefused):
        owned_list(["file-unlisted"], "", upstream.fetch)
    assert len(upstream.queries) == MOST_PAGES


FORM = {"files": {"file": ("a", b"{}")}, "data": {"purpose": "batch"}}


def test_users_list_their_own(call: Call, platform: RunningService) -> None:
    """Through OpenAI's library too; admins list everything, byte for byte."""
    own = {token: [call(token, "POST", "files", **FORM).json()["id"] for _ in range(3)] for token in (ALICE, BOB)}
    for token, ids in own.items():
        with connect(platform, token) as client:
            assert [each.id for each in client.files.list(limit=2)] == list(reversed(ids))
    everything = call(CAROL, "GET", "files?limit=1000")
    assert {each["id"] for each in everything.json()["data"]} == {*own[ALICE], *own[BOB]}
    assert call(BOB, "GET", "assistants").json()["data"] == []


def test_upstreams_refusal_is_said(call: Call, platform: RunningService) -> None:
    """The page of an error is nobody's list."""
    call(ALICE, "POST", "files", **FORM)
    platform.simulator.plan(Plan(status=500), path="/v1/files")
    refused = call(ALICE, "GET", "files")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "list_unavailable")
