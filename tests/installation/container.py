"""One container of the service, as a user runs it, and clients of it."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests

from ocm_wsgi.simulator import Simulator
from tests.installation.rootless import LOOPBACK, Rootless

#: As docs/containers.md has them.
HARDENING = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")


@dataclass(frozen=True)
class Container:
    """A running container.

    :ivar url: the service's URL on this machine's loopback.
    """

    user: Rootless
    name: str
    url: str

    def exec(self, *command: object, succeeds: bool = True) -> str:
        """Run a command in the container, and return what it printed."""
        return self.user.podman("exec", self.name, *command, succeeds=succeeds)

    def is_healthy(self) -> bool:
        """Run the image's health check."""
        return self.user.run("podman", "healthcheck", "run", self.name, succeeds=False).returncode == 0

    def log(self) -> str:
        """Return what the service printed."""
        return self.user.podman("logs", self.name)

    def exit_code(self) -> int:
        """Return the status with which the service exited."""
        return int(self.user.podman("wait", self.name))


def upstream(simulator: Simulator, *, shares_network: bool = False) -> dict[str, str]:
    """Return the settings by which a container finds the simulator on this machine's loopback.

    :param shares_network: whether the container has no network of its own.
    """
    host = "127.0.0.1" if shares_network else LOOPBACK
    return {
        f"OCM_{key.upper()}": str(getattr(simulator, key)).replace("127.0.0.1", host)
        for key in ("chatgpt_base_url", "api_base_url", "auth_base_url")
    }


def free_port() -> int:
    """Return a port of loopback that nothing uses, and that no outgoing connection is given either."""
    with socket.socket() as probe:
        for port in random.sample(range(20_000, 30_000), 100):
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no port is free")


@contextmanager
def run_container(
    user: Rootless, image: str, name: str, *, volume: str, simulator: Simulator, shares_network: bool = False
) -> Iterator[Container]:
    """Run the image on a port of loopback until the context ends; wait until it responds.

    :param shares_network: whether it has no network of its own, and listens on this machine's loopback.
    """
    variables = upstream(simulator, shares_network=shares_network)
    where = ["--publish=127.0.0.1::8080", "--network=slirp4netns:allow_host_loopback=true"]
    port = free_port()
    if shares_network:
        variables |= {"OCM_LISTEN": "127.0.0.1", "OCM_LISTEN_PORT": str(port)}
        where = ["--network=host"]
    settings = [f"--env={key}={value}" for key, value in variables.items()]
    run = ["run", "--detach", f"--name={name}", "--stop-timeout=200", f"--volume={volume}:/var/lib/ocm"]
    user.podman(*run, *HARDENING, *where, *settings, image)
    try:
        address = f"127.0.0.1:{port}" if shares_network else user.podman("port", name, "8080").strip()
        container = Container(user, name, f"http://{address}")
        eventually(lambda: responds(container.url), container.log)
        yield container
    finally:
        user.podman("rm", "--force", "--time=0", name)


def responds(url: str) -> bool:
    """Return whether the service responds."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(f"{url}/ocm/healthz", timeout=10).ok
        except requests.RequestException:
            return False


def eventually(condition: Callable[[], object], explain: Callable[[], str], *, seconds: float = 120) -> None:
    """Poll until a condition is true, as there is nothing to wait on in another process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)


class StreamedTurn:
    """A turn that a client streams in the background."""

    def __init__(self, url: str, bearer_token: str, **options: Any) -> None:
        self.began = threading.Event()
        self._received = b""
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._stream, args=(url, bearer_token, options), daemon=True)
        self._thread.start()

    def body(self) -> str:
        """Wait for the end of the stream, and return it.

        :raises Exception: as the client saw it, if the stream was cut off.
        """
        self._thread.join(200)
        assert not self._thread.is_alive(), "the stream did not end"
        if self._failure is not None:
            raise self._failure
        return self._received.decode()

    def is_whole(self) -> bool:
        """Wait for the end of the stream, and return whether it is complete."""
        try:
            return '"type":"response.completed"' in self.body().replace(" ", "")
        except (requests.RequestException, OSError):
            return False

    def _stream(self, url: str, bearer_token: str, options: dict[str, Any]) -> None:
        body = {"model": "gpt-5.5", "stream": True, "store": False, "input": "Say hello."}
        headers = {"Authorization": f"Bearer {bearer_token}"}
        try:
            with requests.Session() as session:
                session.trust_env = False
                target = f"{url}/v1/responses"
                with session.post(target, json=body, headers=headers, stream=True, timeout=180, **options) as response:
                    response.raise_for_status()
                    for piece in response.iter_content(None):
                        self._received += piece
                        self.began.set()
        except Exception as exc:  # Raised where the stream is waited for.
            self._failure = exc
        finally:
            self.began.set()


def turns_of(usage: str) -> int:
    """Return the number of turns in what ``ocm usage --json`` printed."""
    return sum(row["turns"] for row in json.loads(usage))
