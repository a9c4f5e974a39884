"""A user's own objects, picked out of upstream's list of everyone's. Pure; the caller fetches the pages.

Only what belongs to a list is returned, and it does not reveal how much others have stored: there is more only as long
as the user has objects that were not found yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from ocm_wsgi.errors import BadRequest, ListRefused

#: Objects per page of upstream's, and of ours unless the client asks for less.
PAGE_SIZE = 100

#: Upstream's pages that are read for one of ours.
MOST_PAGES = 20

#: Returns a page of upstream's, given its query: a JSON object.
FetchPage = Callable[[str], Mapping[str, Any]]


def owned_list(own_ids: Collection[str], query: str, fetch: FetchPage) -> dict[str, Any]:
    """Return a page of the user's own objects, in upstream's form and order.

    :param own_ids: of all objects of this kind that the user owns.
    :param query: of the client's request, without the question mark.
    :raises BadRequest: the query asks for what cannot be picked out.
    :raises ListRefused: upstream's list is too long, or has another form.
    """
    others, limit, after = _parsed(query)
    remaining, found, has_more = set(own_ids), list[Any](), True
    for _ in range(MOST_PAGES):
        if not (remaining and has_more and len(found) < limit):
            return _page(found, has_more=bool(remaining) and has_more)
        position = [("after", after)] if after else []
        data, has_more = _data_of(fetch(urlencode([*others, ("limit", str(PAGE_SIZE)), *position])))
        for each in data:
            if len(found) == limit:
                has_more = True
                break
            if each["id"] in remaining:
                remaining.remove(each["id"])
                found.append(each)
        after = data[-1]["id"] if data else after
    raise ListRefused("There is too much to pick yours out of. Use the IDs of your own.")


def _parsed(query: str) -> tuple[list[tuple[str, str]], int, str]:
    """Return the members of a query that are passed on, the limit, and the ID after which to begin."""
    pairs = parse_qsl(query, keep_blank_values=True)
    names = [name for name, _ in pairs]
    if "before" in names or names.count("after") > 1 or names.count("limit") > 1:
        raise BadRequest("A list of your own objects takes one limit and one after, and no before.")
    members = dict(pairs)
    limit = members.get("limit", str(PAGE_SIZE))
    if not limit.isdecimal() or not limit.isascii() or not 1 <= int(limit[:9]) <= 10_000:
        raise BadRequest("The limit of a list is a number from 1 to 10000.")
    others = [(name, value) for name, value in pairs if name not in ("after", "limit")]
    return others, min(int(limit), PAGE_SIZE), members.get("after", "")


def _data_of(page: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], bool]:
    data = page.get("data")
    if not isinstance(data, list) or not all(
        isinstance(each, dict) and isinstance(each.get("id"), str) for each in data
    ):
        raise ListRefused("OpenAI's list has a form from which yours cannot be picked out.")
    return data, page.get("has_more") is True and bool(data)


def _page(found: list[Any], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": found,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
        "has_more": has_more and bool(found),
    }
