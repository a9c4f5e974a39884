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

# A file as sing-box 1.13 writes it, with sums of an older version.
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
    """Return the path of the usage file, which does not exist yet."""
    return tmp_path / "usages.json"


@pytest.fixture
def export(usages_path: Path, database: Database, clock: Callable[[], float]) -> Iterator[UsagesExport]:
    """An export that writes when a test calls it."""
    export = UsagesExport(usages_path, database, clock, interval_seconds=0.01)
    yield export
    export.close()


def combinations(path: Path) -> list[dict[str, Any]]:
    """Return the file's combinations."""
    found: list[dict[str, Any]] = json.loads(path.read_text())["combinations"]
    return found


def requests(path: Path) -> int:
    """Return how many requests the file counts in total."""
    return sum(each["total"]["request_count"] for each in combinations(path))


def test_write(export: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn]) -> None:
    """The file counts turns with a model and a known usage, by user where there is one."""
    ledger.record(make_turn())
    ledger.record(make_turn(user="", cost_micro_usd=None))
    ledger.record(make_turn(usage=None, cost_micro_usd=None))
    ledger.record(make_turn(model="", cost_micro_usd=None))
    ledger.record(make_turn(service_tier="priority", week_start=WEEK, cost_micro_usd=2_340_000))
    assert export.write()
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
    export: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn]
) -> None:
    """The file is written if the sums have changed or if it was deleted, by any process."""
    turn = make_turn()
    ledger.record(turn)
    assert export.write(only_changes=True)
    assert not export.write(only_changes=True)
    ledger.record(turn)
    assert not export.write(only_changes=True)
    ledger.record(make_turn())
    assert export.write(only_changes=True)
    usages_path.unlink()
    assert export.write(only_changes=True)
    assert requests(usages_path) == 2


def test_import(export: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn]) -> None:
    """sing-box's sums are continued, and are imported only once."""
    usages_path.write_text(json.dumps(SING_BOX))
    ledger.record(make_turn(week_start=WEEK, cost_micro_usd=500_000))
    for _ in range(3):
        export.write()
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


def test_import_by_ten_processes(process: Callable[..., Popen[str]], usages_path: Path) -> None:
    """Ten processes that start at the same moment import the file once."""
    usages_path.write_text(json.dumps(SING_BOX))
    assert process("import_usages", "10", str(usages_path)).communicate(timeout=60)[0] == "10\n"
    assert requests(usages_path) == 7


def test_import_by_a_new_installation(
    export: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn], tmp_path: Path
) -> None:
    """After the database is lost, our own file becomes the opening balance of the new one."""
    ledger.record(make_turn())
    export.write()
    other = Database(f"sqlite:///{tmp_path}/other.sqlite3")
    assert UsagesExport(usages_path, other).write()
    other.close()
    assert requests(usages_path) == 1


def test_import_unreadable(export: UsagesExport, usages_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be parsed is moved aside, which is logged; counting starts at zero."""
    usages_path.write_text("half a fi")
    (usages_path.parent / "usages.json.kept-1").write_text("set aside before")
    with caplog.at_level(logging.ERROR):
        export.write()
    assert (usages_path.parent / "usages.json.kept-2").read_text() == "half a fi"
    assert combinations(usages_path) == []
    assert "was moved to usages.json.kept-2: it is not a usage file" in caplog.text


def test_write_to_another_path(
    export: UsagesExport, usages_path: Path, database: Database, ledger: Ledger, make_turn: Callable[..., Turn]
) -> None:
    """An existing file at a changed usages_path is not overwritten, because it was never counted."""
    ledger.record(make_turn())
    export.write()
    other_path = usages_path.with_name("other.json")
    other_path.write_text(json.dumps(SING_BOX))
    other = UsagesExport(other_path, database)
    other.write()
    other.write()
    assert requests(other_path) == 1
    assert requests(usages_path.with_name("other.json.kept-1")) == 7
    assert not usages_path.with_name("other.json.kept-2").exists()


def test_write_keeps_mode_and_link(export: UsagesExport, usages_path: Path, tmp_path: Path) -> None:
    """The mode is preserved, a symbolic link still points to the file, and no temporary file is left."""
    target = tmp_path / "folder" / "real.json"
    target.parent.mkdir()
    target.write_text(json.dumps(SING_BOX))
    target.chmod(0o640)
    usages_path.symlink_to(target)
    export.write()
    assert usages_path.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert requests(target) == 7
    assert sorted(os.listdir(target.parent)) == ["real.json", "real.json.lock"]


def test_write_while_another_writes(export: UsagesExport, usages_path: Path) -> None:
    """Only one process writes at a time; an update leaves it to the other one."""
    with filelock.FileLock(f"{usages_path}.lock"):
        assert not export.update()
        with pytest.raises(filelock.Timeout):
            export.write(timeout_seconds=0)
    assert export.update()


def test_write_without_database(
    export: UsagesExport, usages_path: Path, state_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the database cannot be used, the file is unchanged, and the background thread only logs it."""
    usages_path.write_text(json.dumps(SING_BOX))
    state_path.mkdir()
    (state_path / "ocm.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StateError):
        export.write()
    assert not export.update()
    assert f"Cannot write the usage file {usages_path}: file is not a database" in caplog.text
    assert json.loads(usages_path.read_text()) == SING_BOX


def test_start(export: UsagesExport, usages_path: Path, ledger: Ledger, make_turn: Callable[..., Turn]) -> None:
    """In the background, turns soon reach the file, and the last ones do so at the end."""
    ledger.record(make_turn())
    export.start()
    export.start()
    deadline = time.monotonic() + 20
    while not usages_path.exists():
        assert time.monotonic() < deadline
    ledger.record(make_turn())
    export.close()
    assert requests(usages_path) == 2
