"""A percentage of a subscription cannot be limited with an API key: refused where it is configured, and at turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ocm_wsgi.admission.measurability import require_measurable_configuration
from ocm_wsgi.checks import Level, users
from ocm_wsgi.cli import ocm
from ocm_wsgi.config import load
from ocm_wsgi.errors import ConfigurationError
from ocm_wsgi.simulator import Simulator
from tests.admission.test_limits_live import take_turn
from tests.conftest import ALICE, BOB, REPOSITORY, ServiceFactory
from tests.views.dashboard.test_dashboard import Browser

API_KEY = {"auth_mode": "apikey", "OPENAI_API_KEY": "sk-of-the-owner"}
LIMITS = [{"per": "day", "usd": 5}, {"per": "week", "percent": 30, "usd": 9}]
SENTENCE = "30% per week is a part of a ChatGPT subscription, and this service uses an API key, which has none"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a service whose user Alice has a limit in percent, and with an API key."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, LIMITS, API_KEY)
    return tmp_path


def write(folder: Path, limits: object, credential: object) -> None:
    document = {
        "state_path": str(folder / "state"),
        "credential_path": str(folder / "auth.json"),
        "users": [{"name": "alice", "token": ALICE, "limits": limits}],
    }
    (folder / "ocm.json").write_text(json.dumps(document))
    (folder / "auth.json").write_text(credential if isinstance(credential, str) else json.dumps(credential))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(ocm, arguments, prog_name="flask ocm")


def test_configuration_is_refused(folder: Path) -> None:
    """The problem names the place, what is wrong, and what is possible instead."""
    with pytest.raises(ConfigurationError) as refused:
        require_measurable_configuration(load({"HOME": str(folder)}, folder))
    (problem,) = refused.value.problems
    assert problem.where == "$..users[0].limits[1].percent"
    assert "usd, tokens or requests" in problem.expected
    assert "sk-of-the-owner" not in str(refused.value)


@pytest.mark.parametrize(
    ("limits", "credential"),
    [
        pytest.param(LIMITS[:1], API_KEY, id="no-percentage"),
        pytest.param(LIMITS, "", id="empty"),
        pytest.param(LIMITS, {"auth_mode": "other", "OPENAI_API_KEY": "x"}, id="another-kind"),
    ],
)
def test_configuration_is_accepted(folder: Path, limits: object, credential: object) -> None:
    """Other limits are fine, and nothing is refused because of a credential that cannot be read."""
    write(folder, limits, credential)
    require_measurable_configuration(load({"HOME": str(folder)}, folder))
    (folder / "auth.json").unlink()
    require_measurable_configuration(load({"HOME": str(folder)}, folder))


def test_service_does_not_start(folder: Path) -> None:
    """gunicorn prints the problem and exits with 1."""
    started = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", str(REPOSITORY / "gunicorn.conf.py"), "wsgi:app"],
        cwd=REPOSITORY,
        env={**os.environ, "HOME": str(folder), "OCM_CONFIG": str(folder / "ocm.json")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 1
    assert "$..users[0].limits[1].percent" in started.stderr


@pytest.mark.parametrize("arguments", [("add-user", "bob"), ("update-user", "bob")])
def test_commands_refuse(folder: Path, arguments: tuple[str, ...]) -> None:
    """A user in the database is refused such a limit too."""
    if arguments[0] == "update-user":
        assert run("add-user", "bob").exit_code == 0
    refused = run(*arguments, "--limit", "1 USD per day", "--limit", "30% per week")
    assert refused.exit_code == 1
    assert SENTENCE in refused.output
    assert run(*arguments, "--limit", "1 USD per day").exit_code == 0


def test_check_finds_them(folder: Path) -> None:
    """The check reports those in the configuration, and those of users who were added before the credential changed."""
    checked = run("check", "--only-configuration", "--json")
    (finding,) = json.loads(checked.output)["findings"]
    assert (checked.exit_code, finding["level"]) == (1, "problem")
    assert "$..users[0].limits[1].percent" in finding["text"]
    write(folder, LIMITS[:1], "")
    assert run("add-user", "bob", "--limit", "30% per week").exit_code == 0
    write(folder, LIMITS[:1], API_KEY)
    found = list(users.findings(load({"HOME": str(folder)}, folder)))
    assert [(finding.code, finding.level) for finding in found if finding.level is Level.PROBLEM] == [
        ("unmeasurable", Level.PROBLEM)
    ]
    assert "All requests of bob are refused: 30% per week is a part" in found[-1].text


def test_turns_are_refused(service: ServiceFactory, simulator: Simulator) -> None:
    """If the credential becomes an API key while the service runs, the user gets a sentence that Codex shows."""
    alice = {"name": "alice", "token": ALICE, "limits": [{"per": "week", "percent": 30}]}
    entries = [alice, {"name": "root", "token": BOB, "admin": True}]
    running = service(workers=1, user_entries=entries)
    assert take_turn(running).status_code == 200
    running.credential_path.write_text(json.dumps(API_KEY | {"OPENAI_API_KEY": simulator.api_key()}))
    refused = take_turn(running)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "limit_unmeasurable")
    assert SENTENCE in refused.json()["error"]["message"]
    # The dashboard refuses such a limit, as the commands do.
    with Browser(running.url) as root:
        root.sign_in(BOB)
        page = root.post("users", "users", name="carol", limits="1 USD per day\n30% per week")
        assert page.status_code == 400
        assert SENTENCE in page.text
        assert root.post("users", "users", name="carol", limits="1 USD per day").status_code == 200
        assert root.post("users/carol", "users/carol", limits="30% per week").status_code == 400
