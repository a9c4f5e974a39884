"""Journals on real files."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from ocm_wsgi.accounting.spool import CHUNK_BYTES, Journals, Spool
from ocm_wsgi.accounting.turn_record import Record

RECORDS: list[Record] = [{"id": f"turn-{number}", "text": "ü" * number} for number in range(5)]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Return a spool whose folder does not exist yet."""
    return Spool(tmp_path / "spool", reserve_bytes=1 << 12)


@pytest.fixture
def journals(spool: Spool) -> Iterator[Journals]:
    """Return the journals of this process."""
    journals = Journals(spool)
    yield journals
    journals.close()


def drained(journals: Journals) -> list[Record]:
    """Read and finish all records, and return them."""
    found: list[Record] = []
    while journals.has_records:
        found += journals.read()
        journals.finish()
    return found


def leave_behind(spool: Spool, data: bytes) -> Path:
    """Write a journal as a dead process would leave it."""
    spool.path.mkdir(exist_ok=True)
    path = spool.path / "1-dead.journal"
    path.write_bytes(data)
    return path


def test_journals_own(journals: Journals) -> None:
    """Records are read back until they are finished, and more can follow."""
    journals.require_own().append(RECORDS[:3])
    journals.require_own().append(RECORDS[3:])
    assert journals.own_count == 5
    assert journals.read() == journals.read() == tuple(RECORDS)
    journals.finish()
    assert journals.own_count == 0
    assert journals.read() == ()
    journals.require_own().append(RECORDS[:1])
    assert drained(journals) == RECORDS[:1]


def test_journals_appended_while_read(journals: Journals) -> None:
    """Records appended between reading and finishing are not discarded."""
    journals.require_own().append(RECORDS[:2])
    assert journals.read() == tuple(RECORDS[:2])
    journals.require_own().append(RECORDS[2:])
    journals.finish()
    assert drained(journals) == RECORDS[2:]


def test_journals_chunks(journals: Journals) -> None:
    """A large journal is read in chunks that end between records."""
    records: list[Record] = [{"id": str(number), "text": "x" * 1000} for number in range(3 * CHUNK_BYTES // 1000)]
    journals.require_own().append(records)
    assert 0 < len(journals.read()) < len(records)
    assert drained(journals) == records


def test_journal_is_left_with_records_only(spool: Spool, journals: Journals) -> None:
    """A journal with records outlives its process; an empty one does not."""
    journals.require_own()
    journals.close()
    assert list(spool.path.iterdir()) == []
    journals.require_own().append(RECORDS)
    journals.close()
    assert len(list(spool.path.iterdir())) == 1


def test_adopt_dead(spool: Spool, journals: Journals) -> None:
    """The journal of a dead process is read, and removed once it is finished."""
    other = Journals(spool)
    other.require_own().append(RECORDS)
    other.close()
    journals.adopt()
    assert drained(journals) == RECORDS
    assert list(spool.path.iterdir()) == []


def test_adopt_living(spool: Spool, journals: Journals) -> None:
    """The journal of a living process is not adopted, not even while another one is."""
    journals.require_own().append(RECORDS)
    assert spool.adopt() == []


def test_adopt_once(spool: Spool, journals: Journals) -> None:
    """Only one process adopts a journal."""
    leave_behind(spool, b'\n{"id":"1"}\n')
    journals.adopt()
    assert spool.adopt() == []
    assert drained(journals) == [{"id": "1"}]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param(b"", [], id="empty"),
        pytest.param(bytes(5000), [], id="reserved"),
        pytest.param(b'\n{"id":"1"}\n' + bytes(5000), ["1"], id="reserved-behind"),
        pytest.param(b'\n{"id":"1"}\n\n{"id":"2', ["1"], id="torn-end"),
        pytest.param(b'\n{"id":"1","te\n{"id":"2"}\n', ["2"], id="torn-middle"),
        pytest.param(bytes(20) + b'"1"}\n\n{"id":"2"}\n', ["2"], id="half-cleared"),
        pytest.param(b'\n["id"]\n\n{"id":"2"}\n', ["2"], id="no-object"),
        pytest.param(b'\n{"id":"\xff"}\n\n{"id":"2"}\n', ["2"], id="no-utf-8"),
    ],
)
def test_adopt_damaged(spool: Spool, journals: Journals, data: bytes, found: list[str]) -> None:
    """Complete lines are found, whatever is between them."""
    path = leave_behind(spool, data)
    journals.adopt()
    assert [record["id"] for record in drained(journals)] == found
    assert not path.exists()


def test_torn_line_is_logged(spool: Spool, journals: Journals, caplog: pytest.LogCaptureFixture) -> None:
    """A torn line is logged, without its content."""
    leave_behind(spool, b'\n{"id":"1"')
    journals.adopt()
    with caplog.at_level(logging.WARNING):
        drained(journals)
    assert caplog.messages == ["Skipped a torn line of 9 bytes in 1-dead.journal"]


def test_append_failure(spool: Spool, journals: Journals, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a write that failed half-way, earlier records are intact, and the next write overwrites it."""
    journal = journals.require_own()
    journal.append(RECORDS[:1])
    pwrite = os.pwrite
    written: list[int] = []

    def refuse(descriptor: int, data: bytes, offset: int) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(pwrite(descriptor, bytes(data[:60]), offset))
        return written[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(OSError, match="No space"):
            journal.append(RECORDS[1:4])
    journal.append(RECORDS[4:])
    journals.close()
    journals.adopt()
    assert {record["id"] for record in drained(journals)} >= {"turn-0", "turn-4"}


def test_create_unfinished(spool: Spool, journals: Journals) -> None:
    """Files of a process that died while creating a journal are removed, but not immediately."""
    spool.path.mkdir()
    old, young = spool.path / "1-a.new", spool.path / "1-b.new"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    journals.adopt()
    assert [path.name for path in spool.path.iterdir()] == ["1-b.new"]


def test_fork(process: Callable[..., Popen[str]], state_path: Path) -> None:
    """A journal is adopted after its owner's death, even while a child forked with it open lives and records."""
    child = process("inherit")
    assert child.stdout is not None
    assert child.stdout.readline() == "spool\n"
    assert child.wait(timeout=20) == -signal.SIGKILL
    journals = Journals(Spool(state_path / "spool"))
    journals.adopt()
    assert len(drained(journals)) == 1
    journals.close()
