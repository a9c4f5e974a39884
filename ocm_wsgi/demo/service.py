"""The whole service on one machine, without a credential or a network, for ``ocm demo``.

A simulated OpenAI, and in front of it the real service in gunicorn, with its own configuration, credential and state
in a temporary folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

from ocm_wsgi.demo.sse import EventDecoder
from ocm_wsgi.errors import OcmError
from ocm_wsgi.simulator import Plan, Simulator

USER = "demo"
MODEL = "gpt-5.5"
PREFERRED_PORT = 8080
#: Seconds between words, long enough to see the text arrive.
WORD_INTERVAL_SECONDS = 0.06
#: The first start compiles every module; uv, unlike pip, has not done so.
START_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 10.0


class DemoFailed(OcmError):
    """The demo cannot continue; the message says why and what to check."""


@dataclass(frozen=True)
class Demo:
    """A running service and the simulated OpenAI behind it.

    :ivar url: the service's base URL; the API is below ``/v1``.
    :ivar folder: contains ``ocm.json``, ``auth.json``, ``service.log``, ``state/`` and ``codex/`` as Codex's home.
    """

    url: str
    bearer_token: str
    folder: Path
    simulator: Simulator
    server: subprocess.Popen[bytes]

    def send_turn(self, prompt: str) -> Iterator[str]:
        """Send one streamed turn through the service, as a client would, and yield its text as it arrives.

        :raises DemoFailed: the turn was refused or interrupted.
        """
        decoder = EventDecoder()
        with requests.Session() as session:
            session.trust_env = False  # A proxy from the environment cannot reach loopback.
            response = session.post(
                f"{self.url}/v1/responses",
                headers={"Authorization": f"Bearer {self.bearer_token}", "Accept": "text/event-stream"},
                json={"model": MODEL, "stream": True, "store": False, "input": prompt},
                stream=True,
                timeout=30,
            )
            if response.status_code != requests.codes.ok:
                raise DemoFailed(f"the turn was refused with status {response.status_code}: {response.text}")
            try:
                for piece in response.iter_content(None):
                    for event in decoder.feed(piece):
                        content = json.loads(event.data)
                        if content["type"] == "response.output_text.delta":
                            yield content["delta"]
            except requests.RequestException as exc:
                raise DemoFailed("the turn was interrupted") from exc

    def wait(self) -> int:
        """Wait until the server ends; return its exit status."""
        return self.server.wait()


@contextlib.contextmanager
def run_demo(*, port: int | None = None) -> Iterator[Demo]:
    """Run the service and the simulated OpenAI until the context ends.

    :param port: the service's port; by default 8080, or any free one if that is taken.
    :raises DemoFailed: the service could not be started.
    """
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="ocm-demo-")))
        simulator = running.enter_context(Simulator())
        simulator.default_plan = Plan(interval=WORD_INTERVAL_SECONDS)
        listener = running.enter_context(_listener(port))
        bearer_token = f"sk-ocm-{secrets.token_urlsafe(24)}"
        host, bound_port = listener.getsockname()
        url = f"http://{host}:{bound_port}"
        _write_files(folder, url, bearer_token, simulator)
        server = running.enter_context(_server(folder, listener))
        listener.close()
        _wait_until_ready(url, server, folder)
        yield Demo(url, bearer_token, folder, simulator, server)


def _listener(port: int | None) -> socket.socket:
    candidates = [PREFERRED_PORT, 0] if port is None else [port]
    for candidate in candidates:
        try:
            return socket.create_server(("127.0.0.1", candidate), backlog=128)
        except OSError as exc:
            reason = exc.strerror
    raise DemoFailed(f"cannot listen on port {candidates[-1]}: {reason}. Choose another with --port.")


def _write_files(folder: Path, url: str, bearer_token: str, simulator: Simulator) -> None:
    configuration = {
        "type": "ocm",
        "credential_path": str(folder / "auth.json"),
        "state_path": str(folder / "state"),
        "users": [{"name": USER, "token": bearer_token}],
        "chatgpt_base_url": simulator.chatgpt_base_url,
        "auth_base_url": simulator.auth_base_url,
    }
    _write(folder / "ocm.json", json.dumps(configuration, indent=2))
    _write(folder / "auth.json", json.dumps(simulator.credential(), indent=2))
    (folder / "codex").mkdir()
    _write(folder / "codex" / "config.toml", _codex_configuration(url))


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text + "\n")


def _codex_configuration(url: str) -> str:
    return f"""\
model = "{MODEL}"
model_provider = "ocm"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
plugins = false # would fetch a list from the network

[model_providers.ocm]
name = "OCM"
base_url = "{url}/v1"
env_key = "OCM_BEARER_TOKEN"
wire_api = "responses"
supports_websockets = true
"""


@contextlib.contextmanager
def _server(folder: Path, listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Run the real server on an already open socket, so that its port cannot be taken and no request is too early."""
    with (folder / "service.log").open("wb") as log:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter and package
            [
                *(sys.executable, "-m", "ocm_wsgi.demo.child_gunicorn", str(os.getpid())),
                *("--config", "python:ocm_wsgi.gunicorn_conf", "--graceful-timeout", "2"),
                *("--bind", f"fd://{listener.fileno()}", "ocm_wsgi.wsgi:app"),
            ],
            cwd=folder,
            env={**_environment(), "OCM_CONFIG": str(folder / "ocm.json")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C must reach this process only, which then stops the server.
        )
    try:
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _environment() -> Mapping[str, str]:
    """Return this process's environment without variables that would affect the demo."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OCM_", "GUNICORN_", "CODEX_", "FLASK_"))
    }


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for any response, even a 401. The socket's backlog holds the request until a worker is ready."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.get(f"{url}/v1/models", timeout=START_TIMEOUT_SECONDS)
    except requests.RequestException as exc:
        log = (folder / "service.log").read_text(errors="replace").strip()
        ended = f" It exited with status {server.returncode}." if server.poll() is not None else ""
        raise DemoFailed(f"the service did not start.{ended} Its log says:\n{log[-2000:]}") from exc
