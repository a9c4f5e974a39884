"""Exports that are imported again, in both formats."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.queries import Counts
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.errors import OcmError, TransferFailed, UserRejected
from ocm_wsgi.protocol.responses.turn import Usage
from ocm_wsgi.reporting.spreadsheet import csv_text
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.schema import user
from ocm_wsgi.transfer import imports
from ocm_wsgi.transfer.exports import Format, export_text
from ocm_wsgi.transfer.fields import CHOICES, FIELDS, Field, Kind, Record
from ocm_wsgi.transfer.imports import Imported, import_turns, import_users, records
from ocm_wsgi.transfer.steps import NoProgress
from ocm_wsgi.users.accounts import Accounts
from tests.transfer.conftest import a_turn, content
from tests.transfer.test_backup import is_killed

FORMATS: tuple[Format, ...] = ("jsonl", "csv")
NOW = 3600.0 * 24
DIGEST = "0123456789abcdef" * 4


def exported(url: str, kind: Kind, format_: Format, **filters: Any) -> str:
    """Return an export."""
    with closing(Database(url)) as database, database.read() as connection:
        return "".join(export_text(connection, kind, format_, progress=NoProgress(), **filters))


def imported(url: str, kind: Kind, format_: Format, text: str, *, skip_existing: bool = False) -> Imported:
    """Import a text."""
    found = records(kind, format_, io.StringIO(text, newline=""))
    with closing(Database(url)) as database:
        if kind == "turns":
            return import_turns(database, found, now=NOW)
        accounts = Accounts((), database)
        return import_users(
            accounts, found, actor="cli", credential_tags=["default"], skip_existing=skip_existing, now=5.0
        )


def total(url: str) -> Counts:
    """Return the sums over all turns."""
    with closing(Database(url)) as database, database.read() as connection:
        return queries.sums(connection, None, None, (), user=None, utc_offset_seconds=0)[0].counts


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgresql"), ("postgresql", "sqlite")])
def test_round_trip(
    make_state: Callable[[str], str], make_url: Callable[[str], str], source: str, target: str, format_: Format
) -> None:
    """Users and turns are the same afterwards, with their sums, and a second import changes nothing."""
    origin, destination = make_state(source), make_url(target)
    turns, users = (exported(origin, kind, format_) for kind in ("turns", "users"))
    assert imported(destination, "turns", format_, turns) == Imported(4, 0)
    assert imported(destination, "users", format_, users) == Imported(2, 0)
    expected, found = content(origin), content(destination)
    assert {name: found[name] for name in ("turn", "turn_hour", "user")} == {
        name: expected[name] for name in ("turn", "turn_hour", "user")
    }
    assert imported(destination, "turns", format_, turns) == Imported(0, 4)
    assert imported(destination, "users", format_, users, skip_existing=True) == Imported(0, 2)
    assert content(destination) == found


def test_filters(make_state: Callable[[str], str]) -> None:
    """Turns can be chosen by their time and user, and users by their name."""
    url = make_state("sqlite")
    ids = [json.loads(line)["id"] for line in exported(url, "turns", "jsonl", since=3600.25 * 2).splitlines()]
    assert ids == ["turn-2", "turn-3", "turn-4"]
    ids = [json.loads(line)["id"] for line in exported(url, "turns", "jsonl", user="bob").splitlines()]
    assert ids == ["turn-3"]
    assert [json.loads(line)["name"] for line in exported(url, "users", "jsonl", user="bob").splitlines()] == ["bob"]


def test_turns_that_may_be_counted(make_url: Callable[[str], str]) -> None:
    """A turn older than turns are kept is left out if its hour has sums of its user: it may be one of them."""
    url, day = make_url("sqlite"), 86_400
    now = 100.0 * day
    turns = [("turn-1", 60 * day, "alice"), ("turn-2", 60 * day + 3600, "bob"), ("turn-3", 99 * day, "alice")]
    members = [{"id": id_, "started_at": at, "user": name, "input_tokens": 5} for id_, at, name in turns]
    text = "".join(json.dumps(each) + "\n" for each in members)

    def repeat(text: str) -> Imported:
        with closing(Database(url)) as database:
            return import_turns(database, records("turns", "jsonl", io.StringIO(text)), now=now)

    assert repeat(text) == Imported(3, 0)
    with closing(Database(url)) as database, database.write() as connection:
        # Their sums stay.
        assert queries.delete_old_turns(connection, now - 30 * day, 100) == 2
    assert repeat(text) == Imported(0, 3)
    assert repeat(text.replace("turn-", "other-")) == Imported(1, 2)
    assert (total(url).turns, total(url).input_tokens) == (4, 20)


@pytest.mark.parametrize("format_", FORMATS)
def test_all_or_nothing(make_state: Callable[[str], str], make_url: Callable[[str], str], format_: Format) -> None:
    """After an invalid line at the end, nothing was imported of those before it."""
    origin, destination = make_state("sqlite"), make_url("sqlite")
    for kind in ("turns", "users"):
        text = exported(origin, kind, format_)
        with pytest.raises(TransferFailed, match=r"^Line \d+: .* Nothing was imported\.$"):
            imported(destination, kind, format_, text + '{"id": 1')
    found = content(destination)
    assert not any(rows for name, rows in found.items() if name != "meta")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_import_killed(make_state: Callable[[str], str], make_url: Callable[[str], str], kind: str) -> None:
    """An import that is killed has added nothing, and the next one succeeds."""
    text, destination = exported(make_state("sqlite"), "turns", "jsonl"), make_url(kind)

    def killing() -> Iterator[Record]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield {}

    def work() -> None:
        lines = itertools.chain(records("turns", "jsonl", io.StringIO(text)), killing())
        # Each record is written by itself, in this process.
        vars(imports)["CHUNK_ROWS"] = 1
        with closing(Database(destination)) as database:
            import_turns(database, lines, now=NOW)

    assert is_killed(work)
    assert not any(rows for name, rows in content(destination).items() if name != "meta")
    assert imported(destination, "turns", "jsonl", text) == Imported(4, 0)


TURN = {"id": "a", "started_at": 1, "user": "alice"}
INVALID: list[tuple[Kind, dict[str, Any], str]] = [
    ("turns", {}, "id is missing"),
    ("turns", {**TURN, "user": None}, "user is missing"),
    ("turns", {**TURN, "modell": "gpt-5"}, '"modell" is not a field of turns that this release knows'),
    ("turns", {**TURN, "input_tokens": -1}, "input_tokens is -1, but must be a whole number of 0 or more"),
    ("turns", {**TURN, "input_tokens": 1.5}, "input_tokens is 1.5, but must be a whole number"),
    ("turns", {**TURN, "input_tokens": True}, "input_tokens is true, but must be a whole number"),
    ("turns", {**TURN, "input_tokens": 2**60}, "but must be a whole number"),
    ("turns", {**TURN, "started_at": "now"}, 'started_at is "now", but must be a number'),
    ("turns", {**TURN, "status": "done"}, 'status is "done", but must be completed or'),
    ("turns", {**TURN, "estimated": 1}, "estimated is 1, but must be true or false"),
    ("turns", {**TURN, "model": ["x" * 100]}, "but must be a text"),
    ("users", {"name": "alice"}, "token_sha256 is missing"),
    ("users", {"name": "alice", "token_sha256": "token"}, "not a SHA-256 in hexadecimal. Nobody was added."),
    ("users", {"name": "a b", "token_sha256": DIGEST}, "A name has 1 to 64 characters"),
    ("users", {"name": "alice", "token_sha256": DIGEST, "limits": ["much"]}, "limit that this release does not know"),
    ("users", {"name": "alice", "token_sha256": DIGEST, "limits": "5 USD per day"}, "but must be a list of texts"),
    ("users", {"name": "alice", "token_sha256": DIGEST, "max_concurrent": 0}, "max_concurrent must be at least 1"),
    (
        "users",
        {"name": "alice", "token_sha256": DIGEST, "credential": "work"},
        "not in the configuration; it has default",
    ),
]


@pytest.mark.parametrize(("kind", "record", "message"), INVALID)
def test_invalid(make_url: Callable[[str], str], kind: Kind, record: dict[str, Any], message: str) -> None:
    """A sentence says what is wrong, and nothing is imported."""
    url = make_url("sqlite")
    with pytest.raises(OcmError) as caught:
        imported(url, kind, "jsonl", json.dumps(record))
    assert message in caught.value.message
    assert not any(rows for name, rows in content(url).items() if name != "meta")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,started_at,user\na,1\n", "Line 2: it has 2 cells, but the header 3."),
        ('id,started_at,user\na,1,"alice\n', "Line 2: unexpected end of data."),
        ("id,started_at\na,1\n", "Line 2: user is missing."),
        ("id,started_at,user,x\na,1,alice,2\n", 'Line 2: "x" is not a field'),
    ],
)
def test_invalid_csv(make_url: Callable[[str], str], text: str, message: str) -> None:
    """The line is named in CSV too."""
    with pytest.raises(TransferFailed) as caught:
        imported(make_url("sqlite"), "turns", "csv", text)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("text", ["", "\n", "[1]\n", "nul\n", '{"id": NaN}\n'])
def test_lines_that_are_not_objects(make_url: Callable[[str], str], text: str) -> None:
    """Empty lines do not matter; other lines must be objects."""
    url = make_url("sqlite")
    if not text.strip():
        assert imported(url, "turns", "jsonl", text) == Imported(0, 0)
        return
    with pytest.raises(TransferFailed, match="Line 1: it is not a JSON object"):
        imported(url, "turns", "jsonl", text)


def test_not_utf_8() -> None:
    """A file in another encoding is refused."""
    lines = io.TextIOWrapper(io.BytesIO(b'{"id": "\xff"}'), "utf-8")
    with pytest.raises(TransferFailed, match="not UTF-8"):
        list(records("turns", "jsonl", lines))


def test_users_that_exist(make_state: Callable[[str], str]) -> None:
    """A taken name or token is refused, and nobody is added before that."""
    url = make_state("sqlite")
    alice = json.loads(exported(url, "users", "jsonl", user="alice"))
    new = {**alice, "name": "carol", "token_sha256": DIGEST}
    for second, message in ((alice, "alice already exists"), ({**alice, "name": "dave"}, "has the token of dave")):
        with pytest.raises(UserRejected, match=message):
            imported(url, "users", "jsonl", f"{json.dumps(new)}\n{json.dumps(second)}\n")
    assert len(content(url)["user"]) == 2
    text = f"{json.dumps(new)}\n{json.dumps(alice)}\n"
    assert imported(url, "users", "jsonl", text, skip_existing=True) == Imported(1, 1)
    with closing(Database(url)) as database, database.read() as connection:
        found = {row.name: row.token_sha256 for row in connection.execute(user.select())}
    assert found["carol"] == DIGEST
    assert found["alice"] == alice["token_sha256"]


def test_sparse_records(make_url: Callable[[str], str]) -> None:
    """What is missing or null has its default."""
    url = make_url("sqlite")
    text = json.dumps({"name": "alice", "token_sha256": DIGEST, "admin": None})
    assert imported(url, "users", "jsonl", text) == Imported(1, 0)
    assert imported(url, "turns", "csv", "id,started_at,user,input_tokens\na,1,,\n") == Imported(1, 0)
    (account,) = content(url)["user"]
    assert account[1:5] == ("alice", DIGEST, False, False)
    (turn,) = content(url)["turn"]
    assert turn[:4] == ("a", 1.0, "", "default")
    assert total(url).turns_without_usage == 1


@given(st.data())
def test_cells(data: st.DataObject) -> None:
    """Every value survives its cell."""
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "text": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")),
        "flag": st.booleans(),
        "integer": st.integers(0, 2**53),
        "number": st.floats(0, 2**53),
        "list": st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1),
    }
    for kind in ("users", "turns"):
        fields: list[Field] = list(FIELDS[kind])
        record: dict[str, Any] = {}
        for field in fields:
            values = st.sampled_from(CHOICES[field.name]) if field.name in CHOICES else strategies[field.kind]
            if field.kind == "text" and field.may_be_null:
                values = values.filter(bool)
            record[field.name] = data.draw(st.one_of(st.none(), values) if field.may_be_null else values)
        text = "".join(
            csv_text([field.name for field in fields], [[field.cell(record[field.name]) for field in fields]])
        )
        (found,) = records(kind, "csv", io.StringIO(text, newline=""))
        assert found == record


def test_usage_of_media(make_url: Callable[[str], str]) -> None:
    """Units other than tokens are part of an export."""
    url, other = make_url("sqlite"), make_url("sqlite")
    turn = a_turn(1, usage=Usage(0, 0, 0, image_output_tokens=7, media_ms=8, characters=9), estimated=True)
    with closing(Database(url)) as database, database.write_directly() as cursor:
        queries.store_records(cursor, [record_of(turn)])
    imported(other, "turns", "csv", exported(url, "turns", "csv"))
    assert total(other) == total(url)
    assert (total(other).turns_estimated, total(other).characters) == (1, 9)
