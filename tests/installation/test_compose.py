"""compose.yaml: the service behind Caddy, run by a plain user with podman-compose."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ocm_wsgi.simulator import Plan, Simulator
from tests.installation.container import StreamedTurn, eventually, free_port, turns_of, upstream
from tests.installation.debian import run
from tests.installation.image import import_tree, ocm_command, token_of
from tests.installation.rootless import Rootless
from tests.wheels import REPOSITORY

# Includes the making of what it needs.
pytestmark = pytest.mark.timeout(1800)

#: The official image sets these; the tree that stands in for it has only Debian's package.
_CADDY = ("ENV XDG_DATA_HOME=/data", "ENV XDG_CONFIG_HOME=/config")
_CERTIFICATE = "/data/caddy/pki/authorities/local/root.crt"
PODMAN_COMPOSE = "podman-compose==1.6.0"


class Project:
    """The project of compose.yaml, in a folder of the user.

    :ivar url: where Caddy listens on this machine.
    """

    def __init__(self, rootless: Rootless, folder: Path, port: int) -> None:
        self.rootless = rootless
        self.url = f"https://localhost:{port}"
        self._folder = folder

    def compose(self, *arguments: str, image: str | None = None) -> str:
        """Run podman-compose.

        :param image: the service's, instead of that in ``.env``.
        """
        environment = {"PYTHONPATH": f"{self.rootless.folder}/packages"}
        if image is not None:
            environment["IMAGE"] = image
        program = ["python3", "-m", "podman_compose", f"--file={self._folder}/compose.yaml"]
        return self.rootless.run(*program, *arguments, environment=environment, timeout_seconds=400).stdout

    def logs(self) -> str:
        """Return what all containers printed."""
        names = self.rootless.podman("ps", "--all", "--format={{.Names}}").split()
        return "\n".join(self.rootless.podman("logs", name, succeeds=False) for name in names)


@pytest.fixture
def project(rootless: Rootless, image: str, server: Path, simulator: Simulator, tmp_path: Path) -> Iterator[Project]:
    """Prepare the project as docs/containers.md says, with ports of loopback and the simulator in place of OpenAI."""
    _install_podman_compose(rootless)
    caddy_image = import_tree(rootless, server, "debian-caddy", changes=_CADDY)
    folder = rootless.folder / "project"
    (folder / "config").mkdir(parents=True)
    shutil.copy(REPOSITORY / "compose.yaml", folder)
    (folder / "Caddyfile").write_text(
        rootless.podman(
            *("run", "--rm", "--network=none", image, "deploy", "caddy", "--name=localhost"), "--address=ocm:8080"
        )
    )
    port = free_port()
    settings = {
        "IMAGE": image,
        "CADDY_IMAGE": caddy_image,
        "HTTP_PORT": f"127.0.0.1:{free_port()}",
        "HTTPS_PORT": f"127.0.0.1:{port}",
        **upstream(simulator),
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    (folder / ".env").write_text("\n".join([(REPOSITORY / ".env.example").read_text(), *lines, ""]))
    rootless.give(folder)
    running = Project(rootless, folder, port)
    yield running
    running.compose("down", "--volumes", "--timeout=0")


def _install_podman_compose(rootless: Rootless) -> None:
    """Install it where the user can read it; Debian 12 has an older one."""
    target = rootless.folder / "packages"
    options = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore", f"--target={target}"]
    run([sys.executable, "-m", "pip", "install", *options, PODMAN_COMPOSE])
    rootless.give(target)


def test_life_of_the_project(
    project: Project, rootless: Rootless, image: str, next_image: str, simulator: Simulator, tmp_path: Path
) -> None:
    """Sign in, add a user, a turn over TLS, a stop in the middle of another one, and an upgrade."""
    rootless.podman("volume", "create", "ocm_state")
    ocm_command(rootless, image, "ocm_state", simulator, "login")
    alice = token_of(project.compose("--profile=login", "run", "--rm", "-T", "login", "add-user", "alice"))
    project.compose("up", "--detach")
    certificate = tmp_path / "root.crt"
    eventually(lambda: _fetch(rootless, certificate) and _responds(project.url, certificate), project.logs)
    assert StreamedTurn(project.url, alice, verify=str(certificate)).is_whole()
    assert requests.get(f"{project.url}/metrics", verify=str(certificate), timeout=30).status_code == 404

    gate = simulator.gate().after(1)
    simulator.plan(Plan(text="Until the very end.", gate=gate))
    turn = StreamedTurn(project.url, alice, verify=str(certificate))
    assert turn.began.wait(60)
    stop = threading.Thread(target=project.compose, args=("stop",))
    stop.start()
    try:
        eventually(lambda: "Handling signal: term" in project.logs(), project.logs)
    finally:
        gate.release()
    assert turn.is_whole()
    stop.join()

    project.compose("up", "--detach", image=next_image)
    eventually(lambda: _responds(project.url, certificate), project.logs)
    assert StreamedTurn(project.url, alice, verify=str(certificate)).is_whole()
    assert turns_of(project.compose("exec", "-T", "ocm", "ocm", "usage", "--json")) == 3
    assert next_image in rootless.podman("ps", "--format={{.Image}}").split()


def _fetch(rootless: Rootless, certificate: Path) -> bool:
    """Copy the certificate of Caddy's own authority, which it makes at its start."""
    result = rootless.run("podman", "exec", "ocm_caddy_1", "cat", _CERTIFICATE, succeeds=False)
    certificate.write_text(result.stdout)
    return result.returncode == 0


def _responds(url: str, certificate: Path) -> bool:
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(f"{url}/ocm/healthz", verify=str(certificate), timeout=10).ok
        except (requests.RequestException, OSError):
            return False
