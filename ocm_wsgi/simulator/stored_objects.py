"""What the platform stores for the owner of an API key: files, conversations, vector stores, batches and the like.

Every object of the owner can be listed, read, changed and deleted with the owner's key, for every user.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ocm_wsgi.simulator.exchange import Event, Exchange, Response, error_response, json_response
from ocm_wsgi.simulator.model import new_id
from ocm_wsgi.simulator.targets import API_BASE

#: Collections by their path, with the prefix of the IDs and the objects' own name.
COLLECTIONS = {
    "assistants": ("asst", "assistant"),
    "batches": ("batch", "batch"),
    "chat/completions": ("chatcmpl", "chat.completion"),
    "containers": ("cntr", "container"),
    "conversations": ("conv", "conversation"),
    "evals": ("eval", "eval"),
    "files": ("file", "file"),
    "fine_tuning/jobs": ("ftjob", "fine_tuning.job"),
    "responses": ("resp", "response"),
    "skills": ("skill", "skill"),
    "threads": ("thread", "thread"),
    "uploads": ("upload", "upload"),
    "vector_stores": ("vs", "vector_store"),
    "videos": ("video", "video"),
}
#: A pattern for the collections that this module creates objects of.
CREATED_HERE = "|".join(sorted(set(COLLECTIONS) - {"chat/completions", "responses"}))
ANY = "|".join(sorted(COLLECTIONS))

_PAGE = 20

#: What every batch uses.
BATCH_USAGE = {
    "input_tokens": 3000,
    "input_tokens_details": {"cached_tokens": 1000},
    "output_tokens": 500,
    "output_tokens_details": {"reasoning_tokens": 100},
    "total_tokens": 3500,
}


def create(exchange: Exchange) -> Response:
    """``POST`` to a collection."""
    collection = _split(exchange)[0]
    return json_response(_new(exchange, collection))


def create_thread_and_run(exchange: Exchange) -> Response:
    """``POST /v1/threads/runs``."""
    thread = _new(exchange, "threads")
    return json_response({"id": new_id("run"), "object": "thread.run", "thread_id": thread["id"], "status": "queued"})


def list_objects(exchange: Exchange) -> Response:
    """``GET`` of a collection, in pages."""
    query = parse_qs(urlsplit(exchange.head.target).query)
    found = exchange.world.objects.all(_split(exchange)[0])
    after = query.get("after", [""])[0]
    ids = [value["id"] for value in found]
    start = ids.index(after) + 1 if after in ids else 0
    page = found[start : start + int(query.get("limit", [str(_PAGE)])[0])]
    return json_response(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + len(page) < len(found),
        }
    )


def use(exchange: Exchange) -> Response:
    """Any method of an object or of something inside it."""
    collection, object_id, inside = _split(exchange)
    found = exchange.world.objects.get(collection, object_id)
    if found is None:
        return _unknown(collection, object_id)
    if not inside and exchange.head.method == "DELETE":
        exchange.world.objects.remove(collection, object_id)
        return json_response({"id": object_id, "object": f"{found['object']}.deleted", "deleted": True})
    if inside == "content":
        return Response(
            200, (("Content-Type", "application/octet-stream"),), (Event(b"content of " + object_id.encode()),)
        )
    if (collection, inside) == ("uploads", "complete"):
        return json_response({**found, "status": "completed", "file": _new(exchange, "files")})
    if inside in ("", "cancel"):
        return json_response(_with_output(exchange, found) if collection == "batches" else found)
    return json_response({"object": "list", "data": [], "of": object_id, "has_more": False})


def _new(exchange: Exchange, collection: str) -> dict[str, Any]:
    prefix, name = COLLECTIONS[collection]
    separator = "-" if prefix in ("file", "ftjob") else "_"
    value = {
        "id": new_id(prefix).replace("_", separator, 1),
        "object": name,
        "created_at": int(exchange.world.journal.clock()),
        "status": "validating" if collection == "batches" else "completed",
        "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0} if collection == "batches" else None,
        "request": _request(exchange),
    }
    return exchange.world.objects.add(collection, value)


def _request(exchange: Exchange) -> Any:
    try:
        return json.loads(exchange.body.content)
    except ValueError:
        return {"bytes": len(exchange.body.content)}


def _with_output(exchange: Exchange, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch as it is now. When it has ended, its results are in a file of their own."""
    if batch.setdefault("_polls", exchange.world.background_polls) > 0:
        batch |= {"_polls": batch["_polls"] - 1, "status": "in_progress"}
    elif "output_file_id" not in batch:
        batch |= {
            "status": "completed",
            "model": "gpt-5.5-2026-04-23",
            "output_file_id": _new(exchange, "files")["id"],
            "usage": BATCH_USAGE,
        }
    return batch


def _split(exchange: Exchange) -> tuple[str, str, str]:
    """Return the collection of a path, the object's ID, and the rest."""
    path = exchange.path.removeprefix(f"{API_BASE}/")
    collection = max((name for name in COLLECTIONS if f"{path}/".startswith(f"{name}/")), key=len)
    object_id, _, inside = path[len(collection) + 1 :].partition("/")
    return collection, object_id, inside


def unknown_response(object_id: str) -> Response:
    """Return the answer about a response that is not stored."""
    return error_response(404, None, f"Response with id '{object_id}' not found.")


def _unknown(collection: str, object_id: str) -> Response:
    if collection == "responses":
        return unknown_response(object_id)
    return error_response(404, None, f"No such {COLLECTIONS[collection][1]} object: {object_id}")
