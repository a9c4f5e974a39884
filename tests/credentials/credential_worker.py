"""A worker like gunicorn's: several threads request the credential at the same time. Run as a program by the tests.

Takes its task as JSON on the command line, says ``ready``, waits for a line, and prints what each thread got.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from ocm_wsgi.credentials import CredentialSource, Refresher, Timeouts
from ocm_wsgi.errors import CredentialError

WORKER = str(Path(__file__))


def run(task: dict[str, object]) -> list[dict[str, object]]:
    """Request the credential in all threads at the same time; return the results."""
    source = CredentialSource(
        Path(str(task["path"])),
        state_path=Path(str(task["state_path"])),
        refresher=Refresher(auth_base_url=str(task["auth_base_url"]), timeouts=Timeouts(**task["timeouts"])),  # type: ignore[arg-type]
    )
    threads = int(str(task.get("threads", 1)))
    rejected = source.current() if task.get("rejected") else None
    together = threading.Barrier(threads)
    results: list[dict[str, object]] = []

    def ask() -> None:
        together.wait()
        try:
            credential = source.current() if rejected is None else source.replacement(rejected, "token_invalidated")
            results.append({"access_token": credential.access_token})
        except CredentialError as exc:
            results.append({"status": exc.status, "message": exc.message, "detail": exc.detail})

    print("ready", flush=True)
    sys.stdin.readline()
    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    return results


def task_of(home: object, **more: object) -> str:
    """Return the task of a worker in this home, for the command line."""
    from tests.credentials.credential_home import TIMEOUTS, Home

    assert isinstance(home, Home)
    task = {
        "path": str(home.path),
        "state_path": str(home.state_path),
        "auth_base_url": home.simulator.auth_base_url,
        "timeouts": asdict(TIMEOUTS),
    }
    return json.dumps({**task, **more})


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))), flush=True)
