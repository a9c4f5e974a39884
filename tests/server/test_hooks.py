"""gunicorn's hooks, each test in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environ, text=True, capture_output=True)


NEW_WORKER = """
import os, queue, signal, types
from ocm_wsgi.server import hooks
master = types.SimpleNamespace(SIG_QUEUE=queue.SimpleQueue())
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, lambda number, _: master.SIG_QUEUE.put(number))  # like gunicorn's master
master.SIG_QUEUE.put(signal.SIGCHLD)
{before}
hooks.post_fork(master, None)
{after}
print("it continues")
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGQUIT"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_signal_ends_a_new_worker(tmp_path: Path, moment: str, number: str) -> None:
    """A signal that arrives before a worker has its own handlers is not lost in a queue that is never read."""
    code = {"before": "", "after": "", moment: f"os.kill(os.getpid(), signal.{number})"}
    ended = run(tmp_path, NEW_WORKER.format(**code))
    assert (ended.returncode, ended.stdout) == (0, "")


def test_other_signals_do_not_end_a_new_worker(tmp_path: Path) -> None:
    """A SIGCHLD meant for the master is ignored."""
    assert run(tmp_path, NEW_WORKER.format(before="", after="")).stdout == "it continues\n"


FORKING = """
import os, signal
from ocm_wsgi.server import hooks
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append("it"))
hooks.block_signals_during_fork()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # so that the parent runs first
for _ in range(100):
    child = os.fork()
    if not child:
        for _ in range(1000):
            if received:
                os._exit(0)
            signal.sigtimedwait([], 0.01)
        os._exit(1)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == 0
assert not received
print("all received it")
"""


def test_signal_during_fork_ends_the_new_worker(tmp_path: Path) -> None:
    """A signal between a worker's fork and its first instruction is not lost."""
    assert run(tmp_path, FORKING).stdout == "all received it\n"
