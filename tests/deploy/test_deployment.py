"""The files in ``deploy/``, checked with the programs that use them: systemd, gunicorn, logrotate."""

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
from ocm_wsgi.deployment import KINDS
from ocm_wsgi.simulator import Plan

DEPLOY = Path(__file__).parents[2] / "deploy"
#: Out of 100; systemd rates an exposure below 20 as "OK" or better.
MAX_EXPOSURE = 20


def program(name: str) -> str:
    """Return the path of a program that `make test` installs."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"{name} is not installed: `make test` does it"
    return found


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program; all its output is in ``stdout``."""
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
    """Poll until a condition is true, as there is nothing to wait on in a real process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Return a folder with both units, changed to a program that exists on this machine."""
    service = (DEPLOY / "ocm.service").read_text()
    for found, put in [("/opt/ocm/.venv/bin/ocm", program("true")), ("WorkingDirectory=/var/lib/ocm", "")]:
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
    """Return the variables that ``ocm.env`` sets, including those commented out."""
    lines = (DEPLOY / "ocm.env").read_text().splitlines()
    return dict(line.lstrip("#").split("=", 1) for line in lines if re.match(r"#?[A-Z_]+=", line))


def test_systemd_verifies_the_units(units: Path) -> None:
    """`systemd-analyze verify` reports nothing about both units."""
    result = run("systemd-analyze", "verify", "--man=no", f"{units}/ocm.service", f"{units}/ocm.socket")
    assert (result.returncode, result.stdout) == (0, "")


def test_systemd_approves_of_the_hardening(units: Path) -> None:
    """`systemd-analyze security` reports a low exposure."""
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={MAX_EXPOSURE}", f"{units}/ocm.service"]
    result = run(*command)
    assert result.returncode == 0, result.stdout


def test_stop_waits_for_turns_and_refreshes() -> None:
    """systemd kills nothing before gunicorn's own timeout, and that of a refresh, has passed."""
    configuration = (DEPLOY.parent / "ocm_wsgi" / "gunicorn_conf.py").read_text()
    (graceful_timeout,) = map(int, re.findall(r"^graceful_timeout = (\d+)", configuration, re.MULTILINE))
    assert int(settings()["TimeoutStopSec"]) > max(graceful_timeout, Timeouts().total_seconds)
    assert settings()["KillMode"] == "control-group"
    # Units stop in reverse order, and nginx would cut off requests in progress.
    assert re.search(r"^After=.*\bnginx\.service\b", (DEPLOY / "ocm.service").read_text(), re.MULTILINE)


def test_reload_fails_with_an_invalid_configuration(tmp_path: Path) -> None:
    """The check before a reload's HUP succeeds with a valid configuration and fails with an invalid one."""
    unit = (DEPLOY / "ocm.service").read_text()
    check, hup = re.findall(r"^ExecReload=(.*)$", unit, re.MULTILINE)
    assert hup == '/bin/sh -c "kill -HUP $MAINPID"'
    command = check.replace("/opt/ocm/.venv/bin/ocm", f"{sys.executable} -m ocm_wsgi").split()
    configuration = tmp_path / "ocm.json"
    for text, status in (('{"type": "ocm"}', 0), ('{"listen_prot": 8080}', 1)):
        configuration.write_text(text)
        result = run(*command, HOME=str(tmp_path), OCM_CONFIG=str(configuration))
        assert result.returncode == status, result.stdout
    assert "listen_port" in result.stdout


def test_environment_names_keys_and_places_that_exist() -> None:
    """Each variable is a key of the service, and the paths written to are in folders writable by the unit."""
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


def test_gunicorn_notifies_systemd(service: Any, tmp_path: Path) -> None:
    """The master sends READY=1, as `Type=notify` requires."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(20)
        running = service(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert b"READY=1" in notified.recv(4096)
        # A worker that has not started yet would miss the TERM at the end of the test.
        requests.get(running.url, timeout=20)


def test_stop_finishes_turns(service: Any) -> None:
    """TERM to all processes, as systemd sends it here, interrupts no turn; all have exited afterwards."""
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
    """After a rotation, master and workers log to the new file, and the old one keeps earlier lines."""
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
    # A worker reopens its log in the next iteration of its loop.
    wait_for(lambda: requests.get(f"{running.url}/after", timeout=10) is not None and "/after" in log.read_text())
    old = (logs / "ocm.log.1").read_text()
    assert "/before" in old
    assert "Booting worker" in old
    assert log.stat().st_mode & 0o777 == 0o600


def test_command_runs_with_the_environment_of_the_service(tmp_path: Path) -> None:
    """The command passes its arguments to `ocm`, run in the service's folder with the environment of ocm.env."""
    text = (DEPLOY / "ocm").read_text()
    ocm = tmp_path / "ocm"
    ocm.write_text('#!/bin/sh\necho "$PWD|$HOME|$OCM_CONFIG|$WEB_CONCURRENCY|$(umask)"\nprintf "%s|" "$@"\n')
    ocm.chmod(0o755)
    user = pwd.getpwuid(os.geteuid()).pw_name
    for found, put in [
        ("cd /var/lib/ocm", f"cd {tmp_path}"),
        ("/opt/ocm/.venv/bin/ocm", str(ocm)),
        ("/etc/ocm/ocm.env", str(DEPLOY / "ocm.env")),
        ('" = ocm ]', f'" = {user} ]'),
    ]:
        assert found in text
        text = text.replace(found, put)
    (tmp_path / "command").write_text(text)
    result = run("sh", str(tmp_path / "command"), "usage", "--since", "two words")
    assert result.stdout.splitlines() == [
        f"{tmp_path}|/var/lib/ocm|/etc/ocm/ocm.json|2|0077",
        "usage|--since|two words|",
    ]


def test_docs_name_only_what_exists() -> None:
    """docs/deploy.md uses the files that a server needs, and every command it names exists."""
    text = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    kinds = set(re.findall(r"\bocm deploy ([a-z]+)", text))
    assert {"nginx", "caddy", "command", "environment", "systemd", "socket", "logrotate"} <= kinds <= set(KINDS)
    commands = set(re.findall(r"(?:^ +|`|/bin/)ocm ([a-z][a-z-]+)", text, re.MULTILINE))
    assert {"login", "logout", "check", "add-user", "client-config", "deploy"} <= commands <= set(COMMANDS)
