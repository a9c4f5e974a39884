"""Fixtures of all tests: the simulator of OpenAI, and the real service under gunicorn in front of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from ocm_wsgi.simulator import Simulator
from ocm_wsgi.storage.database import Database
from tests.forkserver import ForkedProcess, start_gunicorn
from tests.postgresql_server import PostgresqlServer, running_server

REPOSITORY = Path(__file__).resolve().parent.parent
#: A CA that nobody uses.
CERTIFICATE = Path(__file__).with_name("unused-ca.pem")
STATE_PROCESS = Path(__file__).with_name("state_process.py")
# How long an example takes depends on the machine and its load.
settings.register_profile("busy-machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy-machine")
# A shell starts a command in the background with interrupts ignored, and every process that a test starts inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The longest time that a worker may take to drain, in seconds.
STOP_TIMEOUT_SECONDS = 60
# The longest time that spooled turns may take to reach the database, in seconds.
SPOOL_TIMEOUT_SECONDS = 30
# The longest time that a line of the log may take to appear, in seconds.
LOG_TIMEOUT_SECONDS = 30

ALICE = "sk-ocm-alice-0123456789abcdef"
BOB = "sk-ocm-bob-0123456789abcdef"


@dataclass(frozen=True)
class RunningService:
    """The service as it runs in production: ``gunicorn wsgi:app``, with its own configuration, state and log."""

    process: ForkedProcess
    url: str
    simulator: Simulator
    folder: Path

    @property
    def pid(self) -> int:
        """The process ID of gunicorn's master."""
        return self.process.pid

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that the service listens on."""
        host, _, port = self.url.rpartition("/")[2].partition(":")
        return host, int(port)

    @property
    def credential_path(self) -> Path:
        """The path of the owner's credential."""
        return self.folder / "auth.json"

    @property
    def state_path(self) -> Path:
        """The state folder."""
        return self.folder / "state"

    def settled_database(self) -> Path:
        """Return the database's path once it has every turn whose end a client has received.

        A turn that the database does not accept in time, as on a busy machine, is spooled to disk first.
        """
        deadline = time.monotonic() + SPOOL_TIMEOUT_SECONDS
        while self._is_spooling() and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.state_path / "ocm.db"

    def _is_spooling(self) -> bool:
        """Return whether there are records in a journal. Those that are in the database are overwritten with zeros."""
        for journal in (self.state_path / "spool").glob("*.journal"):
            with suppress(FileNotFoundError), journal.open("rb") as file:
                if file.read(1).strip(b"\0"):
                    return True
        return False

    def log_text(self) -> str:
        """Return the log so far."""
        return (self.folder / "service.log").read_text()

    def log_lines(self, part: str, *, count: int = 1) -> list[str]:
        """Wait for the log to have at least this many lines with ``part``, and return them.

        The line of a request is written after its end has been sent and recorded, so a client is often earlier.
        """
        deadline = time.monotonic() + LOG_TIMEOUT_SECONDS
        while len(lines := [line for line in self.log_text().splitlines() if part in line]) < count:
            assert time.monotonic() < deadline, f"{part!r} is not in the log:\n" + self.log_text()[-4000:]
            time.sleep(0.02)
        return lines

    def stop(self) -> int:
        """Stop the service as systemd would, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_SECONDS)


ServiceFactory = Callable[..., RunningService]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker of pytest-xdist start with some of the slow tests, so that none runs alone at the end.

    ``--dist worksteal`` first gives each worker an equal part of the list, in order. A worker that has finished takes
    over the end of what another one has left.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = iter([item for item in items if not item.get_closest_marker("slow")])
    ordered: list[pytest.Item] = []
    for number in range(workers):
        part = (len(items) - len(ordered)) // (workers - number)
        first = slow[number::workers]
        ordered += [*first, *islice(others, max(0, part - len(first)))]
    items[:] = ordered


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the home of the tests that have no folder of their own; nothing is written to it."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, shared_home: Path, request: pytest.FixtureRequest) -> None:
    """Hide this machine's own configuration, credential and proxies from tests.

    A home for each of the thousands of tests that are only about values would take longer than they do.
    """
    for name in list(os.environ):
        if name.startswith(("OCM_", "CODEX_", "OPENAI_", "GUNICORN_", "FLASK_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = shared_home
    if "tmp_path" in request.fixturenames:
        home = request.getfixturevalue("tmp_path") / "home"
        home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def state_path(tmp_path: Path) -> Path:
    """Return the path of a folder that does not exist yet."""
    return tmp_path / "state"


@pytest.fixture
def database(state_path: Path) -> Iterator[Database]:
    """Return a database whose file does not exist yet."""
    database = Database(f"sqlite:///{state_path}/ocm.sqlite3")
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Start a PostgreSQL server, whose ``url`` is that of a new database each time."""
    with running_server() as server:
        yield server


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Run ``mount`` with these arguments, the last of which is the mount point. Unmounts at the end of the test."""
    tool = shutil.which("mount", path="/usr/bin:/bin:/usr/sbin:/sbin")
    assert tool is not None
    with ExitStack() as mounted:

        def run(*arguments: object) -> None:
            subprocess.run([tool, *map(str, arguments)], check=True)
            if "remount,bind,ro" not in arguments:
                umount = [str(Path(tool).with_name("umount")), "--lazy", str(arguments[-1])]
                mounted.callback(subprocess.run, umount, check=True)

        yield run


@pytest.fixture
def process(state_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start another process on the same state: ``process("record", "100", "alice")``.

    A ``wrapper`` is a command that runs it.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, wrapper: str = "") -> subprocess.Popen[str]:
        command = [*wrapper.split(), sys.executable, "-W", "error", str(STATE_PROCESS), str(state_path), *arguments]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Start the simulator of OpenAI, on real sockets on loopback."""
    with Simulator() as running:
        yield running


@pytest.fixture
def service(simulator: Simulator, tmp_path: Path) -> Iterator[ServiceFactory]:
    """Return a factory of running services; see :class:`start_service` for its parameters."""
    with ExitStack() as running:

        def start(**options: Any) -> RunningService:
            folder = tmp_path / f"service-{len(list(tmp_path.glob('service-*')))}"
            return running.enter_context(start_service(simulator, folder, **options))

        yield start


def write_credential(path: Path, credential: Mapping[str, Any] | str) -> None:
    """Write an ``auth.json``."""
    path.write_text(credential if isinstance(credential, str) else json.dumps(credential, indent=2))
    path.chmod(0o600)


def _entry(simulator: Simulator, folder: Path, tag: str, members: Mapping[str, Any]) -> Mapping[str, Any]:
    if members.get("type", "default") != "default" or "credential_path" in members:
        return {"tag": tag, **members}
    path = folder / f"{tag}.json"
    write_credential(path, simulator.credential(account=f"acct-{tag}"))
    return {"tag": tag, "credential_path": str(path), **members}


class start_service:
    """Start ``gunicorn wsgi:app`` in front of a simulator.

    :param credential: content of ``auth.json``; a fresh ChatGPT credential if omitted, no file if ``None``.
    :param users: name to bearer token; ``{}`` for none, which means no authentication.
    :param user_entries: the entries of the users in the configuration, instead of ``users``.
    :param credentials: by tag, the members of the entries of ``credentials``; each account has a fresh credential of
        the simulator's account ``acct-<tag>`` in ``<tag>.json``, unless it names a file. By default there is one
        account.
    :param arguments: of gunicorn, before the application.
    :param environment: additional environment variables.
    :param config: additional keys of the configuration.
    """

    def __init__(
        self,
        simulator: Simulator,
        folder: Path,
        *,
        credential: Mapping[str, Any] | str | None = "fresh",
        users: Mapping[str, str] | None = None,
        user_entries: Sequence[Mapping[str, Any]] | None = None,
        credentials: Mapping[str, Mapping[str, Any]] | None = None,
        workers: int = 2,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        **config: Any,
    ) -> None:
        folder.mkdir()
        if credential == "fresh":
            credential = simulator.credential()
        if credential is not None and credentials is None:
            write_credential(folder / "auth.json", credential)
        if user_entries is None:
            named = {"alice": ALICE, "bob": BOB} if users is None else users
            user_entries = [{"name": name, "token": token} for name, token in named.items()]
        entry = {
            "type": "ocm",
            **(
                {"credential_path": str(folder / "auth.json")}
                if credentials is None
                else {"credentials": [_entry(simulator, folder, tag, each) for tag, each in credentials.items()]}
            ),
            "state_path": str(folder / "state"),
            "users": user_entries,
            "chatgpt_base_url": simulator.chatgpt_base_url,
            "api_base_url": simulator.api_base_url,
            "auth_base_url": simulator.auth_base_url,
            **config,
        }
        (folder / "ocm.json").write_text(json.dumps(entry))
        # The test opens the socket, so the port is known, no other process can take it, and no request is too early.
        with (
            socket.create_server(("127.0.0.1", 0), backlog=512) as listener,
            (folder / "service.log").open("wb") as log,
        ):
            host, port = listener.getsockname()
            process = start_gunicorn(
                ["--bind", "fd://{listener}", *arguments, "wsgi:app"],
                environment={
                    "PATH": os.environ["PATH"],
                    "HOME": os.environ["HOME"],
                    "OCM_CONFIG": str(folder / "ocm.json"),
                    # One certificate instead of the 140 that each process would otherwise load.
                    "SSL_CERT_FILE": str(CERTIFICATE),
                    "WEB_CONCURRENCY": str(workers),
                    **(environment or {}),
                },
                listener=listener,
                log=log.fileno(),
            )
        self.service = RunningService(process, f"http://{host}:{port}", simulator, folder)

    def __enter__(self) -> RunningService:
        return self.service

    def __exit__(self, *failure: object) -> None:
        process = self.service.process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise AssertionError("the service did not stop:\n" + self.service.log_text()[-4000:]) from None
