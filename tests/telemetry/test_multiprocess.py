"""The metrics folder of one gunicorn: created at its start, not shared with others, and removed at its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import REPOSITORY, ServiceFactory
from tests.telemetry.metric_folders import folder_of

_PREPARE = """
import os, sys
from pathlib import Path
from ocm_wsgi.telemetry import multiprocess
multiprocess._MEMORY = Path(sys.argv[1])
multiprocess.prepare()
multiprocess.prepare()
print(os.environ["PROMETHEUS_MULTIPROC_DIR"], flush=True)
sys.stdin.read()
if sys.argv[2:]:
    multiprocess.remove()
"""
_DEAD = """
import os
from ocm_wsgi.telemetry import counters
from ocm_wsgi.telemetry.logs import RequestLine
from prometheus_client.multiprocess import mark_process_dead
for _ in range(100):
    child = os.fork()
    if not child:
        counters.count_request_start()
        counters.count_request_start()
        counters.count_request_end(RequestLine("", "GET", "/v1/models", 200, 0, 1.0))
        os._exit(0)
    os.waitpid(child, 0)
    mark_process_dead(child)
families = {family.name: family for family in counters.registry().collect()}
(ended,) = families["ocm_responses"].samples
(in_progress,) = families["ocm_open_streams"].samples
print(ended.value, in_progress.value)
"""


def prepared(folder: Path, *, named: Path | None = None, is_tidy: bool = False) -> subprocess.Popen[str]:
    """Start a master that prepares its folder; it ends when its standard input is closed."""
    environment = {"PATH": os.environ["PATH"]} | ({"PROMETHEUS_MULTIPROC_DIR": str(named)} if named else {})
    return subprocess.Popen(
        [sys.executable, "-c", _PREPARE, str(folder), *(["tidy"] if is_tidy else [])],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def reported_folder(master: subprocess.Popen[str]) -> Path:
    """Read the folder that a master prints."""
    assert master.stdout is not None
    return Path(master.stdout.readline().strip())


def make_old(folder: Path) -> None:
    """Make a folder look an hour old."""
    os.utime(folder, (time.time() - 3600,) * 2)


def test_each_master_has_its_own_folder_and_removes_it(service: ServiceFactory) -> None:
    """Two services on one machine count separately, and leave nothing behind."""
    first, second = service(), service()
    one, other = folder_of(first), folder_of(second)
    assert one != other
    assert one.stat().st_mode & 0o777 == 0o700
    assert first.stop() == 0
    assert not one.exists()
    assert other.exists()


def test_folders_of_killed_masters_are_swept(tmp_path: Path) -> None:
    """A folder is removed once no process holds it; that of a running master stays, however old it is."""
    with prepared(tmp_path) as killed, prepared(tmp_path) as living:
        left, held = reported_folder(killed), reported_folder(living)
        killed.kill()
        killed.wait()
        for folder in (left, held):
            make_old(folder)
        with prepared(tmp_path, named=left, is_tidy=True) as successor:
            own = reported_folder(successor)
            assert own not in (left, held)
            assert {folder.name for folder in tmp_path.glob("ocm-*")} == {own.name, held.name}
        assert {folder.name for folder in tmp_path.glob("ocm-*")} == {held.name}


def test_a_folder_named_by_the_operator_is_emptied_and_kept(tmp_path: Path) -> None:
    """The counts of an earlier service are removed from it, other files are not."""
    named = tmp_path / "named"
    named.mkdir()
    (named / "counter_1.db").write_bytes(b"old")
    (named / "README").write_text("mine")
    with prepared(tmp_path, named=named, is_tidy=True) as master:
        assert reported_folder(master) == named
        assert [file.name for file in named.iterdir()] == ["README"]
    assert not list(tmp_path.glob("ocm-*"))


def test_a_hundred_dead_workers(tmp_path: Path) -> None:
    """Their counts add up, their open streams do not."""
    done = subprocess.run(
        [sys.executable, "-c", _DEAD],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["100.0", "0.0"]
