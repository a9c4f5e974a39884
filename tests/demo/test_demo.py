"""The demo as run by `make demo`: the real command in a separate process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from ocm_wsgi.cli.demo import CODEX
from tests.conftest import REPOSITORY
from tests.forkserver import COVERAGE_VARIABLES

# The demo's temporary folder is in the home.
pytestmark = pytest.mark.usefixtures("tmp_path")


@contextmanager
def demo(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``ocm demo`` in its own session, as a terminal would."""
    with subprocess.Popen(
        [sys.executable, "-m", "flask", "ocm", "demo", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TMPDIR": os.environ["HOME"]} | COVERAGE_VARIABLES,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def printed_until(process: subprocess.Popen[str], marker: str) -> str:
    """Return the command's output up to the line that contains the marker."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if marker in line:
            return "".join(lines)
    raise AssertionError(f"{marker!r} was never printed:\n{''.join(lines)}")


def responds(url: str) -> bool:
    """Return whether a server responds at this URL."""
    try:
        requests.get(url, timeout=20)
    except requests.ConnectionError:
        return False
    return True


def test_demo_once() -> None:
    """One turn is shown as it streams, with the location of everything; nothing is left behind."""
    with demo("--once") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "Hello! I am a simulated model" in output
    assert re.search(r"\d+ tokens in, \d+ tokens out", output)
    folder = re.search(r"configuration +(\S+)/ocm\.json", output)
    assert folder
    assert not Path(folder[1]).exists()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_demo_serves_until_interrupted(ending: signal.Signals) -> None:
    """The printed URL, token and files work; Ctrl-C and TERM end the demo cleanly."""
    with demo() as process:
        output = printed_until(process, "Serving until Ctrl-C")
        url, token, configuration = (
            re.search(rf"{name} +(\S+)", output)[1]  # type: ignore[index]
            for name in ("API", "bearer token", "configuration")
        )
        body = {"model": "gpt-5.5", "stream": True, "input": "hi"}
        answer = requests.post(f"{url}/responses", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=20)
        assert "response.completed" in answer.text
        assert json.loads(Path(configuration).read_text())["users"] == [{"name": "demo", "token": token}]
        usage = re.search(r"OCM_CONFIG=(\S+) \S+/ocm usage", output)
        assert usage
        table = subprocess.run(
            [sys.executable, "-m", "flask", "ocm", "usage"],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "OCM_CONFIG": usage[1]},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert re.search(r"^demo +2 ", table, re.MULTILINE)
        os.killpg(process.pid, ending)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert "Traceback" not in output + rest
    assert not Path(configuration).parent.exists()
    assert not responds(url)


def test_killed_demo_ends_its_server() -> None:
    """After `kill -9` the server no longer listens."""
    with demo() as process:
        output = printed_until(process, "Serving until Ctrl-C")
        process.kill()
        process.wait(10)
    url, folder = (re.search(rf"{name} +(\S+)", output) for name in ("API", "configuration"))
    assert url
    assert folder
    shutil.rmtree(Path(folder[1]).parent)
    deadline = time.monotonic() + 20
    while responds(url[1]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_demo_on_a_port_in_use() -> None:
    """A port in use is reported in one clear line."""
    with socket.create_server(("127.0.0.1", 0)) as taken, demo("--port", str(taken.getsockname()[1])) as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "--port" in output.splitlines()[-1]
    assert "Traceback" not in output


def test_demo_suggests_the_tested_codex() -> None:
    """The tests and the demo pin the same release of Codex."""
    pinned = json.loads((REPOSITORY / "tests" / "clients" / "package.json").read_text())["dependencies"]
    assert f"@openai/codex@{pinned['@openai/codex']}" == CODEX
