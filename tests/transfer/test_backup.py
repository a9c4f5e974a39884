"""Backups and restorations, between SQLite and PostgreSQL, and interrupted at every step."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
import stat
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.errors import StateError, TransferFailed
from ocm_wsgi.protocol.responses.turn import Usage
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.engines import create_engine
from ocm_wsgi.transfer.backup import back_up
from ocm_wsgi.transfer.backup_file import Manifest
from ocm_wsgi.transfer.restoration import read_backup, restore
from ocm_wsgi.transfer.steps import NoProgress, Progress
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User
from tests.storage import schema_texts
from tests.transfer.conftest import a_turn, content

KINDS = ("sqlite", "postgresql")
DIRECTIONS = [pytest.param(source, target, id=f"{source}-{target}") for source in KINDS for target in KINDS]


def save(url: str, path: Path, state_path: Path | None = None, progress: Progress | None = None) -> Manifest:
    """Make a backup."""
    with closing(Database(url)) as database:
        return back_up(database, state_path or path.parent, path, progress=progress or NoProgress())


def load(path: Path, url: str, *, force: bool = False, progress: Progress | None = None) -> None:
    """Restore a backup."""
    progress = progress or NoProgress()
    with closing(Database(url)) as database:
        restore(read_backup(path, progress), database, path.parent / "state", force=force, progress=progress)


class Reported:
    """Keeps what was reported: the steps, each with the number of its chunks so far."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int]] = []

    def begin(self, step: str, length: int) -> None:
        self.points.append((step, 0))

    def advance(self, count: int) -> None:
        step, chunks = self.points[-1]
        self.points.append((step, chunks + 1))


class KilledAt(Reported):
    """Kills this process at a point."""

    def __init__(self, point: tuple[str, int]) -> None:
        super().__init__()
        self._point = point

    def begin(self, step: str, length: int) -> None:
        super().begin(step, length)
        self._kill()

    def advance(self, count: int) -> None:
        super().advance(count)
        self._kill()

    def _kill(self) -> None:
        if self.points[-1] == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_points(work: Callable[[Progress], object]) -> list[tuple[str, int]]:
    """Return the beginning, the middle and the end of each step of some work."""
    reported = Reported()
    work(reported)
    points = []
    for step in dict(reported.points):
        last = max(chunks for name, chunks in reported.points if name == step)
        points += [(step, 0), (step, last // 2), (step, last)]
    return points


def is_killed(work: Callable[[], object]) -> bool:
    """Do some work in a process of its own, and return whether that was killed; it must not fail otherwise."""
    with warnings.catch_warnings():
        # The threads of pytest-xdist do not matter here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def add_user(url: str, name: str) -> None:
    """Add a user to a state."""
    with closing(Database(url)) as database:
        Accounts((), database).add(User(name), actor="cli")


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_move(
    make_state: Callable[[str], str], make_url: Callable[[str], str], tmp_path: Path, source: str, target: str
) -> None:
    """Every row arrives as it was, in either kind of database, and further rows are numbered after them."""
    origin, destination, path = make_state(source), make_url(target), tmp_path / "file"
    manifest = save(origin, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    load(path, destination)
    assert content(destination, is_restored=True) == content(origin)
    assert {name: checksum.rows for name, checksum in manifest.tables.items()} == {
        name: len(rows) for name, rows in content(origin).items()
    }
    add_user(destination, "carol")
    with closing(Database(destination)) as database, database.read() as connection:
        ids = connection.scalars(sa.select(db.user.c.id).order_by(db.user.c.id)).all()
    assert ids == [1, 2, 3]
    # And back, as a backup of what was restored has the same users and turns.
    again = save(destination, tmp_path / "again")
    assert again.tables["turn"] == manifest.tables["turn"]
    assert again.tables["turn_hour"] == manifest.tables["turn_hour"]


def test_texts_that_postgresql_refuses(
    make_state: Callable[[str], str], make_url: Callable[[str], str], tmp_path: Path
) -> None:
    """A NUL in a text of SQLite's does not keep the state from moving to PostgreSQL."""
    origin, destination, path = make_state("sqlite"), make_url("postgresql"), tmp_path / "file"
    with closing(Database(origin)) as database, database.write() as connection:
        db.add_event(connection, 1.0, "cli", "test", "with\0nul", {"a": "b\0c"})
    save(origin, path)
    load(path, destination)
    assert [row[4] for row in content(destination)["event"] if row[3] == "test"] == ["withnul"]


@pytest.mark.parametrize("kind", KINDS)
def test_consistent_under_load(make_url: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    """A backup has the state of one moment: its sums are those of its turns, while turns are recorded."""
    url = make_url(kind)
    is_over, has_begun = threading.Event(), threading.Event()
    with closing(Database(url)) as database, ThreadPoolExecutor(1) as pool:

        def record() -> None:
            number = 0
            while not is_over.wait(0.001):
                with database.write_directly() as cursor:
                    queries.store_records(cursor, [record_of(a_turn(number, started_at=float(number)))])
                number += 1
                if number > 20:
                    has_begun.set()

        running = pool.submit(record)
        try:
            assert has_begun.wait(60)
            counts = []
            for _ in range(3):
                manifest = save(url, tmp_path / "file")
                with contextlib.closing(sqlite3.connect(tmp_path / "file")) as connection:
                    (counted,) = connection.execute("SELECT sum(turns) FROM turn_hour").fetchone()
                assert counted == manifest.tables["turn"].rows
                counts.append(counted)
        finally:
            is_over.set()
        running.result(60)
    assert counts[0] > 20


@pytest.mark.parametrize("kind", KINDS)
def test_restoration_killed_at_each_step(
    make_state: Callable[[str], str], make_url: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    """A restoration that is killed has changed nothing, and the next one succeeds."""
    origin, destination, path = make_state("sqlite"), make_url(kind), tmp_path / "file"
    save(origin, path)
    points = kill_points(lambda progress: load(path, make_url("sqlite"), progress=progress))
    assert [step for step, _ in points[::3]] == ["Checking", "Preparing", "Restoring"]
    add_user(destination, "carol")
    before = content(destination)
    for point in points:
        assert is_killed(partial(load, path, destination, force=True, progress=KilledAt(point)))
        assert content(destination) == before, point
    load(path, destination, force=True)
    assert content(destination, is_restored=True) == content(origin)
    assert list((tmp_path / "state").glob("restoration/*")) == []


def test_restoration_killed_after_its_end(
    make_state: Callable[[str], str], make_url: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restoration that is killed while it cleans up is complete; the next one removes what it left behind."""
    origin, destination, path = make_state("sqlite"), make_url("sqlite"), tmp_path / "file"
    save(origin, path)

    def kill(folder: Path, **_: object) -> None:
        if folder.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr("ocm_wsgi.transfer.restoration.shutil.rmtree", kill)
        assert is_killed(lambda: load(path, destination))
    assert content(destination, is_restored=True) == content(origin)
    assert (tmp_path / "state/restoration").exists()
    load(path, destination, force=True)
    assert content(destination, is_restored=True) == content(origin)
    assert not (tmp_path / "state/restoration").exists()


def test_backup_killed_at_each_step(make_state: Callable[[str], str], tmp_path: Path) -> None:
    """A backup that is killed leaves the previous one as it was, and the next one succeeds."""
    origin, path = make_state("sqlite"), tmp_path / "file"
    points = kill_points(lambda progress: save(origin, tmp_path / "other", progress=progress))
    assert [step for step, _ in points[::3]] == ["Copying", "Checking"]
    path.write_bytes(b"previous")
    for point in points:
        assert is_killed(partial(save, origin, path, progress=KilledAt(point)))
        assert path.read_bytes() == b"previous", point
    save(origin, path)
    assert [each.name for each in tmp_path.glob("file*")] == ["file"]
    assert read_backup(path, NoProgress()).manifest.tables["user"].rows == 2


def test_waiting_records(make_state: Callable[[str], str], make_url: Callable[[str], str], tmp_path: Path) -> None:
    """Records that wait for the database are part of the backup, and count once if they are in both."""
    origin, destination, path = make_state("sqlite"), make_url("sqlite"), tmp_path / "file"
    turns = [record_of(a_turn(1)), record_of(a_turn(9, usage=None, status="in_progress", cost_micro_usd=None))]
    settled = {"settles": "turn-9", "status": "completed", "model": "gpt-5", "service_tier": "default",
               "context_window": 0, "cost_micro_usd": 7, "error_code": "", **vars(Usage(1, 0, 1))}  # fmt: skip
    claim = {"objects": [["file-2", "file"]], "user": "bob", "credential": "default", "created_at": 1.0, "turn": None}
    for folder, records in (("spool", [*turns, settled]), ("owners", [claim])):
        Spool(tmp_path / folder).create().append(records)
    waiting = [each.read_bytes() for each in tmp_path.glob("*/*.journal")]
    save(origin, path, tmp_path)
    load(path, destination)
    found = content(destination)
    assert [row[0] for row in found["turn"]] == ["turn-1", "turn-2", "turn-3", "turn-4", "turn-9"]
    assert [row[0] for row in found["stored_object"]] == ["file-1", "file-2"]
    with closing(Database(destination)) as database, database.read() as connection:
        (total,) = queries.sums(connection, None, None, (), user=None, utc_offset_seconds=0)
    assert (total.counts.turns, total.counts.cost_micro_usd) == (5, 3 * 1500 + 7)
    assert [each.read_bytes() for each in tmp_path.glob("*/*.journal")] == waiting


@pytest.mark.parametrize("kind", KINDS)
def test_earlier_schema(make_url: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    """A database of an earlier schema is backed up as it is, and its backup is upgraded when it is restored."""
    url, destination, path = make_url(kind), make_url("sqlite"), tmp_path / "file"
    if kind == "sqlite":
        Path(str(sa.make_url(url).database)).parent.mkdir()
    engine = create_engine(sa.make_url(url))
    schema_texts.create(engine, 1)
    with engine.connect().execution_options(ocm_writes=True) as connection, connection.begin():
        connection.exec_driver_sql("INSERT INTO meta VALUES ('key', 'value')")
    manifest = save(url, path)
    assert manifest.schema == 1
    assert "stored_object" not in manifest.tables
    with engine.connect() as connection:
        assert not sa.inspect(connection).has_table("stored_object")
    engine.dispose()
    load(path, destination)
    assert content(destination)["meta"] == [("key", "value"), ("schema_version", str(db.SCHEMA_VERSION))]


@pytest.mark.parametrize("kind", KINDS)
def test_refused_unless_forced(make_state: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    """A state that is not empty is replaced only if that is forced."""
    destination, path = make_state(kind), tmp_path / "file"
    save(make_state("sqlite"), path)
    add_user(destination, "carol")
    before = content(destination)
    with pytest.raises(TransferFailed, match=r"The state is not empty: it has rows in .*user \(3\).* --force"):
        load(path, destination)
    assert content(destination) == before
    load(path, destination, force=True)
    assert len(content(destination)["user"]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_in_use(make_state: Callable[[str], str], make_url: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    """An empty state that is in use is replaced only if that is forced; its user then sees what was restored."""
    destination, path = make_url(kind), tmp_path / "file"
    save(make_state("sqlite"), path)
    with closing(Database(destination)) as used:
        with used.read() as connection:
            connection.execute(sa.select(db.user)).all()
        with pytest.raises(TransferFailed, match="in use"):
            load(path, destination)
        with used.read() as connection:
            assert connection.execute(sa.select(db.user)).all() == []
        load(path, destination, force=True)
        with used.read() as connection:
            assert len(connection.execute(sa.select(db.user)).all()) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_filled_in_the_meantime(
    make_state: Callable[[str], str], make_url: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    """A user who is added while the backup is being prepared is not lost."""
    destination, path = make_url(kind), tmp_path / "file"
    save(make_state("sqlite"), path)

    class AddsUser(NoProgress):
        def begin(self, step: str, length: int) -> None:
            if step == "Preparing":
                add_user(destination, "carol")

    with pytest.raises(TransferFailed, match="not empty"):
        load(path, destination, progress=AddsUser())
    assert [row[1] for row in content(destination)["user"]] == ["carol"]


def test_damaged_target(make_state: Callable[[str], str], make_url: Callable[[str], str], tmp_path: Path) -> None:
    """A damaged database is set aside if that is forced."""
    origin, destination, path = make_state("sqlite"), make_url("sqlite"), tmp_path / "file"
    save(origin, path)
    file = Path(str(sa.make_url(destination).database))
    file.parent.mkdir()
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(TransferFailed, match=r"is damaged\. --force"):
        load(path, destination)
    load(path, destination, force=True)
    assert content(destination, is_restored=True) == content(origin)
    (aside,) = file.parent.glob("*.damaged-*")
    assert aside.read_bytes() == b"no database" * 1000


def test_damaged_backup(make_state: Callable[[str], str], tmp_path: Path) -> None:
    """A changed byte anywhere in a row or in the description is found, and nowhere causes another failure."""
    path = tmp_path / "file"
    save(make_state("sqlite"), path)
    whole = path.read_bytes()
    found = 0
    for offset in range(50, len(whole), 997):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x21]) + whole[offset + 1 :])
        try:
            read_backup(path, NoProgress())
        except TransferFailed:
            found += 1
    assert found
    for text in (b"turn-3", b"alice", b'"created_at"', b"file-1"):
        path.write_bytes(whole.replace(text, bytes(byte ^ 1 for byte in text)))
        with pytest.raises(TransferFailed):
            read_backup(path, NoProgress())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TransferFailed):
        read_backup(path, NoProgress())


def changed(path: Path, old: str, new: str) -> None:
    """Replace a text of a backup's manifest, with its checksum."""
    from ocm_wsgi.transfer.backup_file import _sha256

    with contextlib.closing(sqlite3.connect(path)) as connection:
        values = dict(connection.execute("SELECT key, value FROM backup WHERE key <> 'sha256'"))
        assert old in values["manifest"]
        values["manifest"] = values["manifest"].replace(old, new)
        for key, value in {**values, "sha256": _sha256(values)}.items():
            connection.execute("UPDATE backup SET value = ? WHERE key = ?", (value, key))
        connection.commit()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f'"schema": {db.SCHEMA_VERSION}', '"schema": 999', r"newer release .*schema 999; this release knows"),
        ('"format": 1', '"format": 2', "newer release"),
        ('"tables"', '"others"', "not a backup that this release can read"),
        ('"stored_object"', '"stored_objekt"', "damaged: its table stored_objekt"),
    ],
)
def test_unknown_backup(make_state: Callable[[str], str], tmp_path: Path, old: str, new: str, message: str) -> None:
    """A backup of a newer release, or with another content than it says, is refused with a sentence."""
    path = tmp_path / "file"
    save(make_state("sqlite"), path)
    changed(path, old, new)
    with pytest.raises(TransferFailed, match=message):
        read_backup(path, NoProgress())


def test_other_files(tmp_path: Path, database: Database) -> None:
    """Files that are not backups are refused."""
    path = tmp_path / "file"
    path.write_text("text")
    with pytest.raises(TransferFailed, match="not a backup"):
        read_backup(path, NoProgress())
    with database.read():
        pass
    assert database.path is not None
    with pytest.raises(TransferFailed, match="a database, but not a backup"):
        read_backup(database.path, NoProgress())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_back_up(make_url: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    """A state that does not exist is not backed up, and not created."""
    url = make_url(kind)
    with pytest.raises(StateError, match=r"does not exist yet|has no tables yet"):
        save(url, tmp_path / "file")
    assert list(tmp_path.glob("file*")) == []
    assert not list(tmp_path.glob("state*"))


def test_concurrent_backups(make_state: Callable[[str], str], tmp_path: Path) -> None:
    """Two backups to the same file do not mix."""
    url, path = make_state("sqlite"), tmp_path / "file"
    with (tmp_path / "file.partial").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TransferFailed, match="Another process is writing"):
            save(url, path)
    save(url, path)


def test_disk_full(make_state: Callable[[str], str], mount: Callable[..., None], tmp_path: Path) -> None:
    """Without room for the whole backup, there is none, and the sentence says why."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", folder)
    with pytest.raises(TransferFailed, match=r"file.partial cannot be written") as caught:
        save(make_state("sqlite"), folder / "file")
    assert "full" in str(caught.value.detail)
    assert list(folder.iterdir()) == []


def test_disk_full_during_restoration(
    make_state: Callable[[str], str], make_url: Callable[[str], str], mount: Callable[..., None], tmp_path: Path
) -> None:
    """Without room for the whole state, nothing has changed."""
    destination, path = make_url("sqlite"), tmp_path / "file"
    save(make_state("sqlite"), path)
    add_user(destination, "carol")
    before = content(destination)
    folder = tmp_path / "state"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", folder)
    with pytest.raises((TransferFailed, StateError)):
        load(path, destination, force=True)
    assert content(destination) == before
