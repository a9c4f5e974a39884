"""The unit under a real systemd, installed as docs/deploy.md says."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocm_wsgi.simulator import Plan, Simulator
from tests.installation.conftest import NEXT_VERSION
from tests.installation.container import StreamedTurn, eventually, free_port, responds, turns_of
from tests.installation.debian import private_copy
from tests.installation.image import token_of
from tests.installation.machine import Machine, boot
from tests.wheels import REPOSITORY

# Includes the making of what it needs.
pytestmark = pytest.mark.timeout(1800)

_STATUS = 'cat /proc/"$(systemctl show --value --property=MainPID ocm)"/'


@pytest.fixture
def available(wheelhouse: Path, tmp_path: Path) -> Path:
    """Return a folder with wheels that the machine installs from, to which a release can be added."""
    return Path(shutil.copytree(wheelhouse, tmp_path / "available"))


@pytest.fixture
def machine(server: Path, available: Path, tmp_path: Path) -> Iterator[Machine]:
    """Boot a Debian."""
    with (
        private_copy(server, tmp_path / "server") as tree,
        boot(tree, tmp_path, binds={available: "/srv"}) as machine,
    ):
        yield machine


def installation() -> str:
    """Return the commands of docs/deploy.md that install the service."""
    text = (REPOSITORY / "docs" / "deploy.md").read_text()
    section = text.partition("## 2. The service")[2].partition("\n## ")[0]
    return "\n".join(line.removeprefix("    ") for line in section.splitlines() if line.startswith("    "))


def install(machine: Machine, port: int, simulator: Simulator) -> None:
    """Follow docs/deploy.md up to the start, with the simulator in place of OpenAI."""
    pip = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv PIP_DISABLE_PIP_VERSION_CHECK=1\numask 022\n"
    machine.run(pip + installation(), timeout_seconds=600)
    settings = {"OCM_LISTEN_PORT": port} | {
        f"OCM_{key.upper()}": getattr(simulator, key) for key in ("chatgpt_base_url", "api_base_url", "auth_base_url")
    }
    with (machine.tree / "etc/ocm/ocm.env").open("a") as environment:
        environment.writelines(f"{name}={value}\n" for name, value in settings.items())
    machine.run("ocm login")


def configure(machine: Machine, text: str) -> None:
    """Write the configuration, as an editor would."""
    (machine.tree / "etc/ocm/ocm.json").write_text(text)


def reload(machine: Machine) -> None:
    """Reload the configuration."""
    machine.run("systemctl reload ocm || { journalctl --unit=ocm --no-pager --lines=60; exit 1; }")


def test_life_of_the_service(machine: Machine, available: Path, next_wheel: Path, simulator: Simulator) -> None:
    """Start, turn, reload, upgrade and reboot; open turns end whole each time, and nothing is lost."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    install(machine, port, simulator)
    alice = token_of(machine.run("ocm add-user alice"))
    machine.run("systemctl daemon-reload && systemctl enable --now ocm")
    assert StreamedTurn(url, alice).is_whole()
    _expect_sandbox(machine)

    with _open_turn(machine, simulator, url, alice) as turn:
        configure(machine, '{"type": "ocm", "reserve_weekly": 7}')
        reload(machine)
        turn.release_after(lambda: machine.journal().count("Booting worker") >= 4)
    configure(machine, '{"type": "ocm", "reserve_weakly": 7}')
    assert "reserve_weekly" in machine.run("! systemctl reload ocm; journalctl --unit=ocm --no-pager")
    configure(machine, '{"type": "ocm"}')
    reload(machine)

    # Workers of the old configuration would be given up after two minutes, with the turns that they still have.
    eventually(lambda: machine.journal().count("Worker exiting") == 4, machine.journal)
    shutil.copy(next_wheel, available)
    pip = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv /opt/ocm/.venv/bin/pip install --quiet --upgrade ocm-wsgi"
    machine.run(f"{pip} && /opt/ocm/.venv/bin/ocm deploy systemd >/etc/systemd/system/ocm.service")
    with _open_turn(machine, simulator, url, alice) as turn:
        restart = threading.Thread(target=machine.run, args=("systemctl daemon-reload && systemctl restart ocm",))
        restart.start()
        turn.release_after(lambda: "deactivating" in machine.run("systemctl is-active ocm", succeeds=False))
        restart.join()
    assert NEXT_VERSION in machine.run('/opt/ocm/.venv/bin/python -c "import ocm_wsgi; print(ocm_wsgi.__version__)"')
    assert StreamedTurn(url, alice).is_whole()

    with _open_turn(machine, simulator, url, alice) as turn:
        reboot = threading.Thread(target=machine.reboot)
        reboot.start()
        turn.release_after(lambda: not responds(url))
        reboot.join()
    eventually(lambda: responds(url), lambda: machine.journal())
    assert StreamedTurn(url, alice).is_whole()
    assert turns_of(machine.run("ocm usage --json")) == 6
    assert "Traceback" not in machine.journal()


class _open_turn:
    """A turn that is open during the context, and whole after it."""

    def __init__(self, machine: Machine, simulator: Simulator, url: str, bearer_token: str) -> None:
        self._machine = machine
        self._gate = simulator.gate().after(1)
        simulator.plan(Plan(text="Until the very end.", gate=self._gate))
        self._turn = StreamedTurn(url, bearer_token)
        assert self._turn.began.wait(60)

    def release_after(self, condition: Callable[[], object]) -> None:
        """Let OpenAI finish the turn once this is true."""
        eventually(condition, self._machine.journal)
        self._gate.release()

    def __enter__(self) -> _open_turn:
        return self

    def __exit__(self, *failure: object) -> None:
        self._gate.release()
        if failure == (None, None, None):
            assert self._turn.is_whole(), self._machine.journal()


def _expect_sandbox(machine: Machine) -> None:
    """The unit's restrictions are in force in this kernel, not only written down."""
    status = machine.run(f"{_STATUS}status")
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    for capabilities in ("CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{capabilities}:\s+0+$", status, re.MULTILINE), capabilities
    assert not re.search(r"^Uid:\s+0\s", status, re.MULTILINE)
    mounts = machine.run(f"{_STATUS}mountinfo")
    points = {fields[4]: fields[5].split(",") for fields in map(str.split, mounts.splitlines())}
    assert "ro" in points["/"]
    assert "rw" in points["/var/lib/ocm"] or "rw" in points["/var/lib/private/ocm"]
    assert {"/home", "/root", "/tmp", "/var/tmp", "/dev"} <= set(points)
    # As the service's own processes see it.
    found = json.loads(
        machine.run(
            "pid=$(systemctl show --value --property=MainPID ocm); "
            'nsenter --target "$pid" --mount setpriv --reuid=ocm --regid=ocm --clear-groups '
            "/opt/ocm/.venv/bin/python -Ic 'import json, os; "
            'print(json.dumps({p: os.access(p, os.W_OK) for p in ("/opt/ocm", "/etc/ocm", "/var/lib/ocm", "/usr")}))\''
        )
    )
    assert found == {"/opt/ocm": False, "/etc/ocm": False, "/var/lib/ocm": True, "/usr": False}
