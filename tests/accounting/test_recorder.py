"""The recorder's maintenance, beside the records that tests of the ledger write through it."""

from __future__ import annotations

import threading
from pathlib import Path

from ocm_wsgi.accounting.recorder import Recorder
from ocm_wsgi.accounting.spool import Spool


def test_chore_expected_while_it_runs_is_run_again(tmp_path: Path) -> None:
    """What was noted too late for a run of the chore is not left to the next interval."""
    has_begun, may_end, ran_again = threading.Event(), threading.Event(), threading.Event()

    def chore() -> bool:
        if has_begun.is_set():
            ran_again.set()
        has_begun.set()
        assert may_end.wait(30)
        return False

    recorder = Recorder(lambda records: None, Spool(tmp_path / "spool"), chore=chore, chore_seconds=3600)
    try:
        assert recorder.expect_chore(0.0)
        assert has_begun.wait(30)
        assert recorder.expect_chore(0.01)
        may_end.set()
        assert ran_again.wait(30)
    finally:
        may_end.set()
        recorder.close()
