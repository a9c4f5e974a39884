"""The owners of stored objects, on real files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocm_wsgi.accounting.settlement import Settlements
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.errors import StateError
from ocm_wsgi.ownership.access import claiming_answer, require_access, require_body
from ocm_wsgi.ownership.owners import MAX_OBJECTS, RETENTION_DAYS, Owner, Owners
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM, EndpointTable
from ocm_wsgi.protocol.objects.stored_object import NamedObject
from ocm_wsgi.protocol.responses.request import request_facts
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.storage.database import Database
from tests.clock import Clock
from tests.credentials.credential_home import eventually

START = 1_772_442_000.0
FILE = NamedObject("file-1", "file")
ITEM = NamedObject("msg_1", "item")


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock(START)


@pytest.fixture
def owners(database: Database, state_path: Path, clock: Clock) -> Iterator[Owners]:
    """Create the owners of nothing yet."""
    owners = make_owners(database, state_path, clock)
    yield owners
    owners.close()


def make_owners(database: Database, state_path: Path, clock: Clock) -> Owners:
    """Return the owners, as each process has them."""
    return Owners(database, Spool(state_path / "owners", reserve_bytes=1 << 14), clock)


def test_a_claim_is_durable_when_it_returns(database: Database, state_path: Path, owners: Owners, clock: Clock) -> None:
    """Another process knows the owner at once."""
    assert owners.claim("alice", [FILE, ITEM], turn="turn-1") == "database"
    other = make_owners(database, state_path, clock)
    assert other.owner_of("file-1") == other.owner_of("msg_1") == Owner("alice", "turn-1")
    assert other.owner_of("file-2") is None


def test_what_is_not_owned(owners: Owners) -> None:
    """Only what the user has claimed is theirs."""
    owners.claim("alice", [FILE])
    assert owners.not_owned("alice", {"file-1", "file-2"}) == {"file-2"}
    assert owners.not_owned("bob", {"file-1"}) == {"file-1"}
    assert owners.not_owned("bob", set()) == set()
    many = {f"msg_{number}" for number in range(100_000)}
    assert owners.not_owned("alice", {"file-1", *many}) == many


def test_an_object_keeps_its_owner(owners: Owners) -> None:
    """No answer transfers an object, no matter whom it is for."""
    owners.claim("alice", [FILE], turn="turn-1")
    owners.claim("bob", [FILE], turn="turn-2")
    assert owners.owner_of("file-1") == Owner("alice", "turn-1")


def test_many_objects(owners: Owners) -> None:
    """A claim is bounded, so that it fits into the spool."""
    owners.claim("alice", [NamedObject(f"msg_{number}", "item") for number in range(MAX_OBJECTS + 1)])
    assert owners.owner_of(f"msg_{MAX_OBJECTS - 1}") is not None
    assert owners.owner_of(f"msg_{MAX_OBJECTS}") is None


def test_a_claim_survives_a_database_that_fails(
    database: Database, state_path: Path, owners: Owners, clock: Clock
) -> None:
    """It goes to the spool, and from there to the database, even if its process has ended."""
    assert owners.owner_of("file-1") is None
    with database.write():
        assert owners.claim("alice", [FILE]) == "spool"
        owners.close()
    other = make_owners(database, state_path, clock)
    other.start()
    assert eventually(lambda: other.owner_of("file-1")) == Owner("alice", None)
    other.close()


def test_deleted_objects_are_forgotten(owners: Owners) -> None:
    """Nothing remains of an object that was deleted."""
    owners.claim("alice", [FILE, ITEM])
    owners.forget("file-1")
    owners.forget("file-1")
    assert [owners.owner_of("file-1"), owners.owner_of("msg_1")] == [None, Owner("alice", None)]


def test_retention(database: Database, state_path: Path, clock: Clock) -> None:
    """Responses and their items are forgotten after twice the time that OpenAI keeps them; other objects are not."""
    owners = make_owners(database, state_path, clock)
    owners.claim("alice", [FILE, ITEM, NamedObject("resp_1", "response")])
    owners.close()
    for days, kept in ((RETENTION_DAYS - 1, 3), (RETENTION_DAYS + 1, 1)):
        clock.now = START + days * DAY_SECONDS
        later = make_owners(database, state_path, clock)
        later.delete_old()
        assert sum(later.owner_of(each) is not None for each in ("file-1", "msg_1", "resp_1")) == kept
        later.close()


def test_nothing_is_owned_without_the_database(tmp_path: Path) -> None:
    """If the owners cannot be read, no access is granted."""
    owners = Owners(Database(f"sqlite:///{tmp_path}"), Spool(tmp_path / "owners"))
    with pytest.raises(StateError):
        owners.owner_of("file-1")
    with pytest.raises(StateError):
        owners.not_owned("alice", {"file-1"})


@pytest.mark.parametrize(("table", "is_stored"), [(CHATGPT, False), (PLATFORM, True)], ids=["chatgpt", "platform"])
def test_codex_needs_no_database(tmp_path: Path, table: EndpointTable, is_stored: bool) -> None:
    """A turn that is not stored and refers to nothing, as Codex's do, neither reads nor writes an owner."""
    owners = Owners(Database(f"sqlite:///{tmp_path}"), Spool(tmp_path / "owners"))
    endpoint = table.find("POST", "responses", is_admin=False)
    access = require_access(owners, "alice", endpoint, "responses", sees_all=False, is_stored=is_stored)
    body = json.dumps({"model": "m", "store": False, "input": [{"role": "user", "content": "hi"}]}).encode()
    facts = request_facts([body], find_references=access.find_references)
    require_body(owners, access, facts)
    fields = [("Content-Type", "text/event-stream")]
    assert claiming_answer(owners, Settlements(None, {}), access, 200, fields, None, facts=facts) is None  # type: ignore[arg-type]
    assert not (tmp_path / "owners").exists()
