"""The installed wheel is whole: it needs nothing of the checkout."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email import message_from_string
from pathlib import Path

import pytest
import requests

import ocm_wsgi
from tests.conftest import REPOSITORY

SETTINGS = "python:ocm_wsgi.gunicorn_conf"


def environment(**more: str) -> Mapping[str, str]:
    """Return the environment of a program: only what it needs."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **more}


@contextmanager
def serving(*command: str | Path, cwd: Path) -> Iterator[str]:
    """Run a server, and yield its URL once it listens. It must end cleanly."""
    (cwd / "ocm.json").write_text(json.dumps({"listen_port": 0, "users": [{"name": "alice", "token": "sk-ocm-alice"}]}))
    with (cwd / "log").open("w+") as log:
        server = subprocess.Popen(command, cwd=cwd, env=environment(WEB_CONCURRENCY="1"), stdout=log, stderr=log)
        try:
            with subprocess.Popen(
                ["tail", "-F", "--pid", str(server.pid), "-n", "+1", cwd / "log"], stdout=subprocess.PIPE, text=True
            ) as tail:
                assert tail.stdout is not None
                url = next((found[0] for line in tail.stdout if (found := re.search(r"http://\S+", line))), None)
                tail.terminate()
            assert url, (cwd / "log").read_text()
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(60)
        assert (status, "Traceback" in (cwd / "log").read_text()) == (0, False)


@pytest.mark.parametrize(
    "command",
    [("ocm", "serve"), ("python", "-m", "gunicorn", "ocm_wsgi.wsgi:app", "-c", SETTINGS)],
    ids=["ocm-serve", "gunicorn"],
)
def test_serves(programs: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Both ways to start the service use the package's settings and its configuration."""
    with serving(programs / command[0], *command[1:], cwd=tmp_path) as url:
        assert requests.get(f"{url}/ocm/healthz", timeout=30).status_code == 200
        assert requests.get(f"{url}/v1/models", timeout=30).status_code == 401
        assert requests.get(f"{url}/ocm/", timeout=30).status_code == 200
    assert "ocm_wsgi.server.worker.RelayWorker" in (tmp_path / "log").read_text()


def test_contains_the_files_for_other_programs(programs: Path, tmp_path: Path) -> None:
    """`ocm deploy` works without the checkout."""
    command = [str(programs / "ocm"), "deploy", "nginx", "--name", "ocm.example.org"]
    printed = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    ).stdout
    assert re.sub(r" +# EDIT$", "", (REPOSITORY / "deploy" / "nginx.conf").read_text(), flags=re.MULTILINE) == printed


def test_contains_what_belongs_in_it(wheel: Path) -> None:
    """Every file of the package and of deploy/ is in the wheel, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.startswith("ocm_wsgi-")}
    sources = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "ocm_wsgi").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    deploy = {f"ocm_wsgi/deployment/files/{path.name}" for path in (REPOSITORY / "deploy").iterdir()}
    assert packed == sources | deploy


def test_metadata(wheel: Path) -> None:
    """The package index shows the README, the licence, and what is needed."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(name).decode())
    assert (metadata["Name"], metadata["Version"]) == ("ocm-wsgi", ocm_wsgi.__version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("MIT", "LICENSE")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (REPOSITORY / "README.md").read_text()
    assert {"demo", "postgresql"} <= set(metadata.get_all("Provides-Extra", []))
