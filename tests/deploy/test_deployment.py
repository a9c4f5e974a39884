"""The files in ``deploy/``, judged by the programs they are for: systemd, gunicorn under systemd's rules, logrotate."""

from __future__ import annotations

import configparser
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from ocm_wsgi.cli import COMMANDS
from ocm_wsgi.config import Config, scalar_keys
from ocm_wsgi.credentials import Timeouts
from ocm_wsgi.simulator import Plan

DEPLOY = Path(__file__).parents[2] / "deploy"
#: Of 100; systemd calls what is below 20 and above "OK".
MOST_EXPOSURE = 20


def program(name: str) -> str:
    """Return the path of a program that `make test` installs."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"{name} is not installed: `make test` does it"
    return found


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its whole output is in ``stdout``."""
    return subprocess.run(
        command,
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def wait_for(condition: Callable[[], object], *, seconds: float = 20) -> None:
    """Poll until a condition holds; the process is a real one, so there is nothing else to wait on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Return a folder with both units, whose program exists on this machine."""
    service = (DEPLOY / "ocm.service").read_text()
    programs = [(f"/opt/ocm/.venv/bin/{name}", program("true")) for name in ("gunicorn", "flask")]
    for found, put in [*programs, ("WorkingDirectory=/opt/ocm", "")]:
        assert found in service
        service = service.replace(found, put)
    (tmp_path / "ocm.service").write_text(service)
    shutil.copy(DEPLOY / "ocm.socket", tmp_path)
    return tmp_path


def settings() -> dict[str, str]:
    """Return the last value of each setting in ``[Service]``."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "ocm.service")
    return dict(unit["Service"])


def environment() -> dict[str, str]:
    """Return what ``ocm.env`` sets, and what it would set without the comment signs."""
    lines = (DEPLOY / "ocm.env").read_text().splitlines()
    return dict(line.lstrip("#").split("=", 1) for line in lines if re.match(r"#?[A-Z_]+=", line))


def test_systemd_finds_nothing_wrong(units: Path) -> None:
    """`systemd-analyze verify` is silent about both units."""
    result = run("systemd-analyze", "verify", "--man=no", f"{units}/ocm.service", f"{units}/ocm.socket")
    assert (result.returncode, result.stdout) == (0, "")


def test_systemd_approves_of_the_hardening(units: Path) -> None:
    """`systemd-analyze security` finds little exposure."""
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSURE}", f"{units}/ocm.service"]
    result = run(*command)
    assert result.returncode == 0, result.stdout


def test_stop_waits_for_turns_and_refreshes() -> None:
    """systemd kills nothing before gunicorn's own patience, and that of a renewal, has ended."""
    configuration = (DEPLOY.parent / "gunicorn.conf.py").read_text()
    (graceful_timeout,) = map(int, re.findall(r"^graceful_timeout = (\d+)", configuration, re.MULTILINE))
    assert int(settings()["TimeoutStopSec"]) > max(graceful_timeout, Timeouts().total_seconds)
    assert settings()["KillMode"] == "control-group"
    # Units stop in the opposite order, and nginx would cut what is under way.
    assert re.search(r"^After=.*\bnginx\.service\b", (DEPLOY / "ocm.service").read_text(), re.MULTILINE)


def test_reload_fails_on_a_mistake(tmp_path: Path) -> None:
    """What a reload does before HUP succeeds with a good configuration, and fails with a bad one."""
    unit = (DEPLOY / "ocm.service").read_text()
    check, hup = re.findall(r"^ExecReload=(.*)$", unit, re.MULTILINE)
    assert hup == "/bin/kill -HUP $MAINPID"
    flask = str(Path(sys.executable).with_name("flask"))
    command = check.replace("/opt/ocm/.venv/bin/flask", flask).split()
    configuration = tmp_path / "ocm.json"
    for text, status in (('{"type": "ocm"}', 0), ('{"listen_prot": 8080}', 1)):
        configuration.write_text(text)
        result = run(*command, HOME=str(tmp_path), OCM_CONFIG=str(configuration))
        assert result.returncode == status, result.stdout
    assert "listen_port" in result.stdout


def test_environment_names_keys_and_places_that_exist() -> None:
    """Each variable is a key of the service, and what is written lies in a folder that the unit may write."""
    variables = environment()
    ours = {name.removeprefix("OCM_").lower() for name in variables if name.startswith("OCM_")}
    assert ours - {"config"} <= set(scalar_keys())
    assert settings()["StateDirectory"] == settings()["LogsDirectory"] == "ocm"
    assert all(variables[f"OCM_{key}"].startswith("/var/lib/ocm/") for key in ("STATE_PATH", "CREDENTIAL_PATH"))
    assert " /var/log/ocm/ocm.log " in variables["GUNICORN_CMD_ARGS"]
    assert "/var/log/ocm/ocm.log {" in (DEPLOY / "logrotate").read_text()


def test_socket_listens_where_nginx_looks() -> None:
    """The socket unit, nginx and the service's default agree on the address."""
    defaults = Config.model_fields
    address = f"{defaults['listen'].default}:{defaults['listen_port'].default}"
    assert f"ListenStream={address}\n" in (DEPLOY / "ocm.socket").read_text()
    assert f"server {address};" in (DEPLOY / "nginx.conf").read_text()


def test_gunicorn_tells_systemd_that_it_is_ready(service: Any, tmp_path: Path) -> None:
    """`Type=notify` is kept: the master says READY=1."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(20)
        running = service(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert b"READY=1" in notified.recv(4096)
        # A worker that is not up yet would miss the TERM at the end of the test.
        requests.get(running.url, timeout=20)


def test_stop_lets_turns_end(service: Any) -> None:
    """TERM to every process at once, as systemd sends it here, cuts no turn; all are gone afterwards."""
    running = service(users={})
    gate = running.simulator.gate().after(1)
    running.simulator.plan(Plan(text="All of it.", gate=gate))
    with requests.post(f"{running.url}/v1/responses", json={"stream": True}, stream=True, timeout=30) as response:
        wait_for(lambda: running.log_text().count("Booting worker") == 2)
        pieces = response.iter_content(None)
        first = next(pieces)
        os.killpg(running.pid, signal.SIGTERM)
        wait_for(lambda: "Handling signal: term" in running.log_text())
        gate.release()
        assert b"response.completed" in first + b"".join(pieces)
    assert running.process.wait(30) == 0


def test_logrotate_loses_no_line(service: Any, tmp_path: Path) -> None:
    """After a rotation the lines of master and workers go to the new file, and the old one keeps the rest."""
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o700)
    log = logs / "ocm.log"
    running = service(users={}, arguments=("--error-logfile", str(log), "--capture-output"))
    requests.get(f"{running.url}/before", timeout=10)
    wait_for(lambda: "/before" in log.read_text())
    configuration = (DEPLOY / "logrotate").read_text()
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    for found, put in [
        ("/var/log/ocm/ocm.log", str(log)),
        ("ocm ocm", f"{user} {group}"),
        ("systemctl kill --kill-who=main --signal=USR1 ocm.service", f"kill -USR1 {running.pid}"),
    ]:
        assert found in configuration
        configuration = configuration.replace(found, put)
    (tmp_path / "logrotate").write_text(configuration)
    result = run("logrotate", "--force", "--state", str(tmp_path / "rotated"), str(tmp_path / "logrotate"))
    assert (result.returncode, result.stdout) == (0, "")
    # A worker opens its log anew when its loop next turns.
    wait_for(lambda: requests.get(f"{running.url}/after", timeout=10) is not None and "/after" in log.read_text())
    old = (logs / "ocm.log.1").read_text()
    assert "/before" in old
    assert "Booting worker" in old
    assert log.stat().st_mode & 0o777 == 0o600


def test_command_runs_with_the_environment_of_the_service(tmp_path: Path) -> None:
    """`ocm` passes its arguments on to `flask ocm`, in the service's folder and with what ocm.env says."""
    text = (DEPLOY / "ocm").read_text()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    flask = tmp_path / ".venv" / "bin" / "flask"
    flask.write_text('#!/bin/sh\necho "$PWD|$HOME|$OCM_CONFIG|$WEB_CONCURRENCY|$(umask)"\nprintf "%s|" "$@"\n')
    flask.chmod(0o755)
    user = pwd.getpwuid(os.geteuid()).pw_name
    for found, put in [
        ("cd /opt/ocm", f"cd {tmp_path}"),
        ("/etc/ocm/ocm.env", str(DEPLOY / "ocm.env")),
        ('" = ocm ]', f'" = {user} ]'),
    ]:
        assert found in text
        text = text.replace(found, put)
    (tmp_path / "ocm").write_text(text)
    result = run("sh", str(tmp_path / "ocm"), "usage", "--since", "two words")
    assert result.stdout.splitlines() == [
        f"{tmp_path}|/var/lib/ocm|/etc/ocm/ocm.json|2|0077",
        "ocm|usage|--since|two words|",
    ]


def test_docs_name_only_what_exists() -> None:
    """Every file of deploy/ and every command that docs/deploy.md names is there."""
    text = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    files = set(re.findall(r"deploy/([\w.]*\w)", text))
    assert {"nginx.conf", "ocm", "ocm.env", "ocm.service", "ocm.socket", "logrotate"} <= files
    assert files <= {path.name for path in DEPLOY.iterdir()}
    commands = set(re.findall(r"(?:^    |`)ocm ([a-z-]+)", text, re.MULTILINE))
    assert {"login", "logout", "check", "add-user", "client-config"} <= commands <= set(COMMANDS)
