"""A credential file in its own folder, with helpers for tests."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocm_wsgi.credentials import CredentialSource, Refresher, Timeouts, refresh_process
from ocm_wsgi.credentials.refresh_client import refresh_in_new_process
from ocm_wsgi.credentials.refresh_protocol import JOB, OUTCOME, RefreshJob, RefreshOutcome
from ocm_wsgi.simulator import Simulator

HELPER = b"ocm_wsgi.credentials.refresh_process"
#: In most tests no other program writes the file, so there is nothing to wait for after a refusal.
TIMEOUTS = Timeouts(lock_seconds=20, exchange_seconds=20, adoption_seconds=0.0)


def eventually(condition: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """Poll ``condition`` until it returns a true value, and return that; for waiting on another process."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.002)
    return value


def helpers_of(pid: int) -> list[int]:
    """Return the running refresh processes that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and HELPER in folder.joinpath("cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


def helper_of(pid: int) -> int:
    """Wait for the only refresh process of a process, and return it."""
    return int(eventually(lambda: helpers_of(pid))[0])


def refresh_here(job: RefreshJob) -> RefreshOutcome:
    """Run a job in this process and thread."""
    return OUTCOME.validate_json(refresh_process.run(JOB.dump_json(job)))


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock as another program would."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass
class Home:
    """The folder of a credential, like ``CODEX_HOME``."""

    folder: Path
    simulator: Simulator
    monotonic: float = 1000.0
    run: Callable[[RefreshJob], RefreshOutcome] = refresh_in_new_process

    @property
    def path(self) -> Path:
        return self.folder / "auth.json"

    @property
    def state_path(self) -> Path:
        return self.folder.parent / "state"

    def write(self, content: object) -> None:
        """Write the file as Codex 0.169 does: rename a new one over the old one."""
        temporary = self.folder / ".auth-XXXXXX"
        temporary.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
        temporary.replace(self.path)

    def sign_in(self, **options: Any) -> dict[str, Any]:
        """Write new tokens, with the simulator's options, and return the file's content."""
        content = self.simulator.credential(**options)
        self.write(content)
        return content

    def content(self) -> Any:
        """Return the parsed content of the file."""
        return json.loads(self.path.read_bytes())

    def access_token(self) -> str:
        return str(self.content()["tokens"]["access_token"])

    def refresher(self, **options: Any) -> Refresher:
        return Refresher(
            **{"auth_base_url": self.simulator.auth_base_url, "timeouts": TIMEOUTS, "run": self.run, **options}
        )

    def source(self, *, path: Path | None = None, **options: Any) -> CredentialSource:
        """Return a new source, like that of another process. ``monotonic`` is its clock for backoff."""
        return CredentialSource(
            path or self.path,
            state_path=self.state_path,
            refresher=options.pop("refresher", None) or self.refresher(),
            monotonic=lambda: self.monotonic,
            **options,
        )

    def outcomes(self) -> list[str]:
        """Return the outcome for each refresh token that was presented."""
        return [refresh.outcome for refresh in self.simulator.refreshes]

    def remains(self) -> list[Path]:
        """Return the temporary files that were left behind."""
        return [*self.folder.parent.rglob(".auth-*"), *self.folder.parent.rglob("*.new")]
