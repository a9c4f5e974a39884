"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa


class PostgresqlServer:
    """A PostgreSQL server, on a Unix socket only."""

    def __init__(self, folder: Path) -> None:
        on_path = shutil.which("initdb")
        # Debian does not put them on the path.
        self._programs = Path(on_path).parent if on_path else max(Path("/usr/lib/postgresql").glob("*/bin"))
        self._folder = folder
        self._numbers = itertools.count()
        # It refuses to run as root.
        self._as_itself = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if _is_root() else []
        self._run("initdb", "--auth=trust", "--no-sync", "--username=ocm", "--encoding=UTF8", "--no-locale")

    @property
    def url(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        engine = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self._url(name)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        options = f"-c listen_addresses= -c unix_socket_directories={self._folder} -c fsync=off -c max_connections=200"
        self._run("pg_ctl", "start", "--wait", "--silent", f"--log={self._folder}/log", "--options", options)

    def stop(self) -> None:
        """Stop the server immediately, without waiting for connections."""
        self._run("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://ocm@/{name}?host={self._folder}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_itself, str(self._programs / program), *arguments, "--pgdata", f"{self._folder}/data"]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, timeout=60)


@contextlib.contextmanager
def running_server() -> Iterator[PostgresqlServer]:
    """Start a server, and stop it and remove its data afterwards."""
    # Not below pytest's own folders, which another user cannot read.
    folder = Path(tempfile.mkdtemp(prefix="ocm-postgresql-"))
    try:
        if _is_root():
            shutil.chown(folder, "postgres", "postgres")
        server = PostgresqlServer(folder)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


def _is_root() -> bool:
    return os.geteuid() == 0
