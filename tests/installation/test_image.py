"""The image: what is in it, and the life of a container that a plain user runs without privileges."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from ocm_wsgi.credentials import Timeouts
from ocm_wsgi.simulator import Gate, Plan, Simulator
from tests.installation.conftest import NEXT_VERSION
from tests.installation.container import (
    HARDENING,
    StreamedTurn,
    eventually,
    run_container,
    turns_of,
)
from tests.installation.image import ocm_command, token_of
from tests.installation.rootless import Rootless

# Includes the making of what it needs.
pytestmark = pytest.mark.timeout(1800)

MAX_BYTES = 150_000_000
#: Of this user, as docs/containers.md says.
UID = 10001
#: What an intruder would look for.
_UNWANTED = re.compile(
    r"/(sh|bash|dash|busybox|apt.*|dpkg.*|pip[\d.]*|gcc.*|cc|ld|as|strip|make|perl.*|curl|wget|su|git)$"
)
# Prints what cannot be seen from outside, as JSON.
_LOOK = """
import json, os, stat
found = {"bytes": 0, "programs": [], "setuid": [], "writable": [], "secret": []}
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [name for name in folders if name not in ("proc", "sys", "dev", "run", "tmp")]
    for name in [*folders, *files]:
        path = os.path.join(folder, name)
        status = os.lstat(path)
        found["bytes"] += status.st_size if stat.S_ISREG(status.st_mode) else 0
        if stat.S_ISLNK(status.st_mode):
            continue
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
            found["programs"].append(path)
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o6000:
            found["setuid"].append(path)
        if os.access(path, os.W_OK) and not path.startswith(("/var/tmp", "/var/lib/ocm")):
            found["writable"].append(path)
        if name in ("auth.json", ".env", "pip.conf", ".netrc", "ocm.json"):
            found["secret"].append(path)
print(json.dumps(found))
"""


@pytest.fixture
def volume(rootless: Rootless, image: str, simulator: Simulator) -> Iterator[str]:
    """Return the name of a volume in which the service is signed in, by its own command."""
    name = "state"
    rootless.podman("volume", "create", name)
    ocm_command(rootless, image, name, simulator, "login")
    yield name
    rootless.podman("volume", "rm", "--force", name)


def test_contents(rootless: Rootless, image: str) -> None:
    """The image is small, and contains neither tools nor secrets nor anything that its user can change."""
    look = ["run", "--rm", "--network=none", "--entrypoint=python", image, "-Ic", _LOOK]
    found = json.loads(rootless.podman(*look).splitlines()[-1])
    assert [path for path in found["programs"] if _UNWANTED.search(path)] == []
    assert (found["setuid"], found["writable"], found["secret"]) == ([], [], [])
    assert found["bytes"] < MAX_BYTES
    (details,) = json.loads(rootless.podman("image", "inspect", image))
    assert details["Size"] < MAX_BYTES
    assert "setuptools" not in rootless.podman(
        *("run", "--rm", "--network=none", "--entrypoint=python", image, "-Ic"),
        "from importlib.metadata import distributions as d; print(sorted(x.name for x in d()))",
    )


def test_configuration(rootless: Rootless, image: str) -> None:
    """The image says how it is run, and not how it was built."""
    (details,) = json.loads(rootless.podman("image", "inspect", image))
    config = details["Config"]
    assert (config["User"], config["StopSignal"]) == (f"{UID}:{UID}", "SIGTERM")
    assert list(config["Volumes"]) == ["/var/lib/ocm"]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert (config["Entrypoint"], config["Cmd"]) == (["ocm"], ["serve"])
    # podman and Docker have it in different places.
    assert "'GET', '/ocm/healthz'" in json.dumps(details)
    variables = dict(variable.split("=", 1) for variable in config["Env"])
    assert not [name for name in variables if name.startswith("PIP_")]
    # The folder of auth.json is on the volume, as a refresh replaces the file.
    assert variables["OCM_CREDENTIAL_PATH"] == "/var/lib/ocm/codex/auth.json"
    assert not [step for step in details["History"] if "PIP_" in step.get("created_by", "")]


def test_container_has_no_privileges(rootless: Rootless, image: str, volume: str, simulator: Simulator) -> None:
    """The processes have a user of their own, no capabilities, and write to the volume and to memory only."""
    with run_container(rootless, image, "unprivileged", volume=volume, simulator=simulator) as container:
        status = container.exec("python", "-Ic", "print(open('/proc/1/status').read())")
        assert re.search(rf"^Uid:\s+{UID}\s+{UID}\s", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        for path, is_writable in (
            ("/etc/ocm/x", False),
            ("/opt/ocm/x", False),
            ("/var/lib/ocm/x", True),
            ("/tmp/x", True),
        ):
            code = f"import os; open({path!r}, 'w').close(); os.unlink({path!r}); print('writ' + 'ten')"
            assert ("written" in container.exec("python", "-Ic", code, succeeds=False)) == is_writable, path
        # What workers share is in memory.
        assert "ocm-metrics-" in container.exec("python", "-Ic", "import os; print(os.listdir('/dev/shm'))")
        assert "Traceback" not in container.log()


def test_turn_stop_and_upgrade(
    rootless: Rootless, image: str, next_image: str, volume: str, simulator: Simulator
) -> None:
    """A turn that is open when the container is stopped ends whole; the next release continues with its volume."""
    alice = token_of(ocm_command(rootless, image, volume, simulator, "add-user", "alice"))
    with run_container(rootless, image, "old", volume=volume, simulator=simulator) as container:
        assert container.is_healthy()
        assert StreamedTurn(container.url, alice).is_whole()
        gate = simulator.gate().after(1)
        simulator.plan(Plan(text="Until the very end.", gate=gate))
        turn = StreamedTurn(container.url, alice)
        assert turn.began.wait(60)
        stopping = rootless.start("podman", "stop", container.name)
        try:
            eventually(lambda: "Handling signal: term" in container.log(), container.log)
            assert stopping.poll() is None
        finally:
            gate.release()
        assert turn.is_whole()
        assert stopping.wait(200) == 0
        assert container.exit_code() == 0, container.log()
    with run_container(rootless, next_image, "new", volume=volume, simulator=simulator) as container:
        assert StreamedTurn(container.url, alice).is_whole()
        assert turns_of(container.exec("ocm", "usage", "--json")) == 3
        assert NEXT_VERSION in container.exec("python", "-Ic", "import ocm_wsgi; print(ocm_wsgi.__version__)")


def test_refresh_outlives_the_service(rootless: Rootless, image: str, volume: str, simulator: Simulator) -> None:
    """Stopping a container while a refresh token is presented loses no token, even if the worker is gone by then."""
    gate = Gate().at("rotated")
    simulator.expire()
    simulator.plan(Plan(gate=gate), path="/oauth/token")
    before = credential(rootless, image, volume)
    running = run_container(rootless, image, "refreshing", volume=volume, simulator=simulator, shares_network=True)
    with running as container:
        # Without users, everyone on loopback is served.
        turn = StreamedTurn(container.url, "none")
        assert gate.reached.wait(60)
        kill = "import os; [os.kill(int(p), 9) for p in open('/proc/1/task/1/children').read().split()]"
        container.exec("python", "-Ic", kill)
        with pytest.raises(Exception):  # noqa: B017, PT011 - of requests or urllib3: the turn was cut off
            turn.body()
        stopping = rootless.start("podman", "stop", container.name)
        try:
            eventually(lambda: "Waiting for the refresh of the credential" in container.log(), container.log)
        finally:
            gate.release()
        assert stopping.wait(Timeouts().total_seconds) == 0
        assert container.exit_code() == 0
    assert credential(rootless, image, volume) != before


def credential(rootless: Rootless, image: str, volume: str) -> str:
    """Return the refresh token on a volume."""
    code = "import json; print(json.load(open('/var/lib/ocm/codex/auth.json'))['tokens']['refresh_token'])"
    run = ["run", "--rm", "--network=none", f"--volume={volume}:/var/lib/ocm", "--entrypoint=python", image]
    return rootless.podman(*run, "-Ic", code).splitlines()[-1]


def test_volume_of_another_user(rootless: Rootless, image: str) -> None:
    """A folder that the container's user cannot write to is explained in a sentence."""
    folder = rootless.folder / "foreign"
    rootless.run("mkdir", "--mode=755", folder)
    result = rootless.run(
        *("podman", "run", "--rm", "--network=none", *HARDENING, f"--volume={folder}:/var/lib/ocm", image),
        *("add-user", "alice"),
        succeeds=False,
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stdout
    assert "/var/lib/ocm" in result.stdout
