"""The usage file on disk."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import filelock
import pytest

from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.usages_export import UsagesExport
from ocm_wsgi.errors import StateError
from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.storage.database import Database

WEEK = 1_772_442_000

#: As sing-box 1.13 writes it, with sums of an older one.
SING_BOX: dict[str, Any] = {
    "last_updated": "2026-03-01T08:00:00.123456789+08:00",
    "costs": {"total_usd": 1.5, "by_user": {"alice": 1.25}},
    "combinations": [
        {
            "model": "gpt-5",
            "service_tier": "default",
            "context_window": 272_000,
            "week_start_unix": WEEK,
            "total": {
                "request_count": 7,
                "input_tokens": 700,
                "output_tokens": 70,
                "cached_tokens": 280,
                "cost_usd": 1.5,
            },
            "by_user": {
                "alice": {
                    "request_count": 6,
                    "prompt_tokens": 600,
                    "completion_tokens": 60,
                    "cached_tokens": 240,
                    "cost_usd": 1.25,
                }
            },
        }
    ],
}


@pytest.fixture
def usages_path(tmp_path: Path) -> Path:
    """Where the usage file will be."""
    return tmp_path / "usages.json"


@pytest.fixture
def snapshot(usages_path: Path, database: Database, clock: Callable[[], float]) -> Iterator[UsagesExport]:
    """An export that writes when a test calls it."""
    snapshot = UsagesExport(usages_path, database, clock, interval_seconds=0.01)
    yield snapshot
    snapshot.close()


def combinations(path: Path) -> list[dict[str, Any]]:
    """What the file says."""
    found: list[dict[str, Any]] = json.loads(path.read_text())["combinations"]
    return found


def requests(path: Path) -> int:
    """How many requests the file counts in all."""
    return sum(each["total"]["request_count"] for each in combinations(path))


def test_write(snapshot: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn]) -> None:
    """The file counts turns with a model and a known usage, by user where there is one."""
    ledger.record(make_turn())
    ledger.record(make_turn(user="", cost_micro_usd=None))
    ledger.record(make_turn(usage=None, cost_micro_usd=None))
    ledger.record(make_turn(model="", cost_micro_usd=None))
    ledger.record(make_turn(service_tier="priority", week_start=WEEK, cost_micro_usd=2_340_000))
    assert snapshot.write()
    one = {"request_count": 1, "input_tokens": 100, "output_tokens": 10, "cached_tokens": 40}
    first, second = combinations(usages_path)
    assert first == {
        "model": "gpt-5",
        "service_tier": "default",
        "context_window": 272_000,
        "total": {**{name: 2 * value for name, value in one.items()}, "cost_usd": 0},
        "by_user": {"alice": {**one, "cost_usd": 0}},
    }
    assert second["week_start_unix"] == WEEK
    assert second["by_user"]["alice"]["cost_usd"] == 2.34


def test_write_only_changes(
    snapshot: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn]
) -> None:
    """It is written when there is something new, or when it is gone, in whatever process that is noticed."""
    turn = make_turn()
    ledger.record(turn)
    assert snapshot.write(only_changes=True)
    assert not snapshot.write(only_changes=True)
    ledger.record(turn)
    assert not snapshot.write(only_changes=True)
    ledger.record(make_turn())
    assert snapshot.write(only_changes=True)
    usages_path.unlink()
    assert snapshot.write(only_changes=True)
    assert requests(usages_path) == 2


def test_take_over(snapshot: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn]) -> None:
    """sing-box's sums go on from where they were, once."""
    usages_path.write_text(json.dumps(SING_BOX))
    ledger.record(make_turn(week_start=WEEK, cost_micro_usd=500_000))
    for _ in range(3):
        snapshot.write()
    (only,) = combinations(usages_path)
    assert only["total"] == {
        "request_count": 8,
        "input_tokens": 800,
        "output_tokens": 80,
        "cached_tokens": 320,
        "cost_usd": 2,
    }
    assert only["by_user"]["alice"] == {
        "request_count": 7,
        "input_tokens": 700,
        "output_tokens": 70,
        "cached_tokens": 280,
        "cost_usd": 1.75,
    }
    assert json.loads(usages_path.read_text())["costs"]["by_user"] == {"alice": 1.75}


def test_take_over_by_ten_at_once(process: Callable[..., Popen[str]], usages_path: Path) -> None:
    """Ten processes that start at the same moment take it over once."""
    usages_path.write_text(json.dumps(SING_BOX))
    assert process("take_over", "10", str(usages_path)).communicate(timeout=60)[0] == "10\n"
    assert requests(usages_path) == 7


def test_take_over_by_a_new_installation(
    snapshot: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn], tmp_path: Path
) -> None:
    """When the database was lost, our own file is the opening balance of the next."""
    ledger.record(make_turn())
    snapshot.write()
    other = Database(f"sqlite:///{tmp_path}/other.sqlite3")
    assert UsagesExport(usages_path, other).write()
    other.close()
    assert requests(usages_path) == 1


def test_take_over_unreadable(snapshot: UsagesExport, usages_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be understood is moved aside, and that is said; the count starts at nothing."""
    usages_path.write_text("half a fi")
    (usages_path.parent / "usages.json.kept-1").write_text("kept before")
    with caplog.at_level(logging.ERROR):
        snapshot.write()
    assert (usages_path.parent / "usages.json.kept-2").read_text() == "half a fi"
    assert combinations(usages_path) == []
    assert "was moved to usages.json.kept-2: it is not a usage file" in caplog.text


def test_write_to_another_path(
    snapshot: UsagesExport, usages_path: Path, database: Database, ledger: Ledger, make_turn: Callable[..., Turn]
) -> None:
    """A file that is already at a new usages_path is not overwritten: it was never counted."""
    ledger.record(make_turn())
    snapshot.write()
    other_path = usages_path.with_name("other.json")
    other_path.write_text(json.dumps(SING_BOX))
    other = UsagesExport(other_path, database)
    other.write()
    other.write()
    assert requests(other_path) == 1
    assert requests(usages_path.with_name("other.json.kept-1")) == 7
    assert not usages_path.with_name("other.json.kept-2").exists()


def test_write_keeps_mode_and_link(snapshot: UsagesExport, usages_path: Path, tmp_path: Path) -> None:
    """The mode stays, and a symbolic link goes on pointing to the file; nothing temporary is left."""
    target = tmp_path / "folder" / "real.json"
    target.parent.mkdir()
    target.write_text(json.dumps(SING_BOX))
    target.chmod(0o640)
    usages_path.symlink_to(target)
    snapshot.write()
    assert usages_path.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert requests(target) == 7
    assert sorted(os.listdir(target.parent)) == ["real.json", "real.json.lock"]


def test_write_while_another_writes(snapshot: UsagesExport, usages_path: Path) -> None:
    """One writes at a time; who finds another at it leaves it to them."""
    with filelock.FileLock(f"{usages_path}.lock"):
        assert not snapshot.update()
        with pytest.raises(filelock.Timeout):
            snapshot.write(timeout_seconds=0)
    assert snapshot.update()


def test_write_without_database(
    snapshot: UsagesExport, usages_path: Path, state_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that cannot be used leaves the file as it is; the background only says so."""
    usages_path.write_text(json.dumps(SING_BOX))
    state_path.mkdir()
    (state_path / "ocm.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StateError):
        snapshot.write()
    assert not snapshot.update()
    assert f"Cannot write the usage file {usages_path}: file is not a database" in caplog.text
    assert json.loads(usages_path.read_text()) == SING_BOX


def test_start(snapshot: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn]) -> None:
    """In the background, what was recorded is in the file soon; what came last, when it ends."""
    ledger.record(make_turn())
    snapshot.start()
    snapshot.start()
    deadline = time.monotonic() + 20
    while not usages_path.exists():
        assert time.monotonic() < deadline
    ledger.record(make_turn())
    snapshot.close()
    assert requests(usages_path) == 2
