"""Nobody but its creator and the admins can list, read, change, use or delete what OpenAI stores."""

from __future__ import annotations

import os
import signal
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from ocm_wsgi.storage.database import Database
from tests.conftest import ALICE, BOB, RunningService
from tests.credentials.credential_home import eventually
from tests.ownership.conftest import CAROL, Call

TURN = {"model": "gpt-5.5", "input": "hi"}
FORM = {"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "batch"}}

#: How to create an object of each kind, and where its ID is in the answer.
CREATIONS: dict[str, dict[str, Any]] = {
    "responses": {"json": TURN},
    "chat/completions": {"json": {"model": "gpt-5.5", "messages": [], "store": True}},
    "conversations": {"json": {}},
    "files": FORM,
    "uploads": {"json": {"filename": "a", "purpose": "batch", "bytes": 2, "mime_type": "text/plain"}},
    "vector_stores": {"json": {"name": "mine"}},
    "containers": {"json": {"name": "mine"}},
    "batches": {"json": {"endpoint": "/v1/responses", "completion_window": "24h"}},
    "fine_tuning/jobs": {"json": {"model": "gpt-5.5"}},
    "evals": {"json": {"data_source_config": {"type": "custom"}}},
    "assistants": {"json": {"model": "gpt-5.5"}},
    "threads": {"json": {}},
    "skills": FORM,
    "videos": {"json": {"model": "sora-2", "prompt": "a cat"}},
}
#: What is inside an object of a kind.
INSIDE = {
    "responses": "input_items",
    "chat/completions": "messages",
    "conversations": "items",
    "files": "content",
    "vector_stores": "files",
    "containers": "files",
    "fine_tuning/jobs": "events",
    "evals": "runs",
    "threads": "messages",
    "skills": "versions",
    "videos": "content",
}
LISTED = sorted(set(CREATIONS) - {"responses", "conversations", "uploads", "threads"})


@pytest.mark.parametrize("collection", CREATIONS)
def test_only_the_creator_and_admins_reach_an_object(call: Call, platform: RunningService, collection: str) -> None:
    """For others it does not exist: no method of it, and nothing inside it, gets as far as to upstream."""
    created = call(ALICE, "POST", collection, **CREATIONS[collection])
    assert created.status_code == 200, created.text
    path = f"{collection}/{created.json()['id']}"
    unknown = f"{collection}/{created.json()['id'][:-8]}00000000"
    sent = len(platform.simulator.requests)
    paths = [("GET", path)] if collection != "uploads" else [("POST", f"{path}/cancel")]
    paths += [("GET", f"{path}/{INSIDE[collection]}")] if collection in INSIDE else []
    for method, each in [*paths, *deletions(collection, path)]:
        refused = call(BOB, method, each)
        assert refused.status_code == 404, each
        absent = call(BOB, method, each.replace(path, unknown))
        assert refused.text.replace(path.rpartition("/")[2], "x") == absent.text.replace(
            unknown.rpartition("/")[2], "x"
        )
    assert len(platform.simulator.requests) == sent
    for token in (ALICE, CAROL):
        assert [call(token, method, each).status_code for method, each in paths] == [200] * len(paths)
    assert created.json()["id"] in platform.simulator.objects(collection)


def deletions(collection: str, path: str) -> list[tuple[str, str]]:
    """Return the request that deletes an object, if there is one."""
    return [] if collection in ("uploads", "batches", "fine_tuning/jobs") else [("DELETE", path)]


def test_unknown_objects_answer_as_upstream_does(call: Call) -> None:
    """An admin's request goes upstream; the answer to everyone else has the same body."""
    for path in ("responses/resp_unknown0123456789", "files/file-unknown0123456789", "videos/video_unknown0123456789"):
        ours, theirs = call(ALICE, "GET", path), call(CAROL, "GET", path)
        assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())


@pytest.mark.parametrize("collection", LISTED)
def test_lists_contain_ones_own_only(call: Call, platform: RunningService, collection: str) -> None:
    """What others have stored is in an admin's list only."""
    created = call(ALICE, "POST", collection, **CREATIONS[collection]).json()["id"]
    listed = {
        token: [each["id"] for each in call(token, "GET", collection).json()["data"]] for token in (ALICE, BOB, CAROL)
    }
    assert created in listed[ALICE]
    assert created in listed[CAROL]
    assert listed[BOB] == []


def test_objects_without_an_owner_are_for_admins(call: Call, platform: RunningService) -> None:
    """What existed before, or was created past this service, belongs to no user."""
    file_id = call(ALICE, "POST", "files", **FORM).json()["id"]
    with closing(Database(f"sqlite:///{platform.state_path / 'ocm.db'}")) as database, database.write() as connection:
        connection.exec_driver_sql("DELETE FROM stored_object WHERE id = ?", (file_id,))
    assert call(ALICE, "GET", f"files/{file_id}").status_code == 404
    assert call(CAROL, "GET", f"files/{file_id}").status_code == 200


def test_a_deleted_object_leaves_no_row(call: Call, platform: RunningService) -> None:
    """After its deletion an object is unknown to us too, and so it is upstream."""
    file_id = call(ALICE, "POST", "files", **FORM).json()["id"]
    assert owner(platform, file_id) == "alice"
    assert call(ALICE, "DELETE", f"files/{file_id}").json()["deleted"] is True
    assert owner(platform, file_id) is None
    assert call(ALICE, "GET", f"files/{file_id}").status_code == 404


def test_deleting_something_inside_an_object_keeps_it(call: Call, platform: RunningService) -> None:
    """A file that leaves a vector store is still the user's, and so is the store."""
    file_id = call(ALICE, "POST", "files", **FORM).json()["id"]
    store_id = call(ALICE, "POST", "vector_stores", json={}).json()["id"]
    assert call(ALICE, "DELETE", f"vector_stores/{store_id}/files/{file_id}").status_code == 200
    assert [owner(platform, each) for each in (file_id, store_id)] == ["alice", "alice"]


def test_files_that_an_object_leads_to_are_its_owners(call: Call, platform: RunningService) -> None:
    """The file of a completed upload and the results of a batch belong to the same user, even if an admin asks."""
    upload_id = call(ALICE, "POST", "uploads", json={}).json()["id"]
    file_id = call(ALICE, "POST", f"uploads/{upload_id}/complete", json={"part_ids": ["part_1"]}).json()["file"]["id"]
    batch_id = call(ALICE, "POST", "batches", json={"input_file_id": file_id}).json()["id"]
    results = call(CAROL, "GET", f"batches/{batch_id}").json()["output_file_id"]
    assert [owner(platform, each) for each in (upload_id, file_id, batch_id, results)] == ["alice"] * 4
    assert call(ALICE, "GET", f"files/{results}/content").status_code == 200
    assert call(BOB, "GET", f"files/{results}/content").status_code == 404


def test_a_thread_that_a_run_creates_is_the_users(call: Call) -> None:
    """The answer names the thread beside the run."""
    thread_id = call(ALICE, "POST", "threads/runs", json={"model": "gpt-5.5"}).json()["thread_id"]
    assert call(ALICE, "GET", f"threads/{thread_id}").status_code == 200
    assert call(BOB, "GET", f"threads/{thread_id}").status_code == 404


@pytest.mark.parametrize("path", ["files/%66ile-{}", "files/file%2D{}"])
def test_an_encoded_id_is_the_same_object(call: Call, path: str) -> None:
    """The check concerns the object that upstream will look up."""
    rest = call(ALICE, "POST", "files", **FORM).json()["id"].removeprefix("file-")
    assert call(ALICE, "GET", path.format(rest)).status_code == 200
    assert call(BOB, "GET", path.format(rest)).status_code == 404


def test_nothing_is_recorded_that_is_not_stored(call: Call, platform: RunningService) -> None:
    """A response with ``store: false``, an unstored completion and an error have no owner."""
    before = owners(platform)
    assert call(ALICE, "POST", "responses", json={**TURN, "store": False}).status_code == 200
    assert call(ALICE, "POST", "chat/completions", json={"model": "gpt-5.5", "messages": []}).status_code == 200
    assert call(ALICE, "POST", "responses", json={**TURN, "previous_response_id": 3}).status_code == 400
    assert owners(platform) == before


def owner(running: RunningService, object_id: str) -> str | None:
    """Return the recorded owner of an object."""
    return owners(running).get(object_id)


def owners(running: RunningService) -> dict[str, str]:
    """Return all recorded owners."""
    with closing(Database(f"sqlite:///{running.settled_database()}")) as database, database.read() as connection:
        rows = connection.exec_driver_sql('SELECT id, "user" FROM stored_object').all()
    return {row[0]: row[1] for row in rows}


def test_owners_survive_killed_workers(call: Call, platform: RunningService) -> None:
    """An ID that a client has seen is its user's, even if the worker is killed immediately afterwards."""
    response_id = call(ALICE, "POST", "responses", json=TURN).json()["id"]
    file_id = call(ALICE, "POST", "files", **FORM).json()["id"]
    for pid in worker_pids(platform):
        os.kill(pid, signal.SIGKILL)

    def statuses() -> list[int]:
        with suppress(requests.ConnectionError):
            return [
                call(token, "GET", path).status_code
                for token in (ALICE, BOB)
                for path in (f"responses/{response_id}", f"files/{file_id}/content")
            ]
        return []

    assert eventually(statuses) == [200, 200, 404, 404]


def worker_pids(running: RunningService) -> list[int]:
    """Return the process IDs of the service's workers."""
    return [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
