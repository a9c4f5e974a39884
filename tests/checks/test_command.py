"""``ocm check`` on one machine: each possible problem is found and reported with its remedy, and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from ocm_wsgi.checks import prices, reachability, sharing
from ocm_wsgi.storage import upgrades
from ocm_wsgi.storage.schema import SCHEMA_VERSION
from tests.forkserver import run_flask_ocm
from tests.proxies import ForwardProxy, Socks5
from tests.storage import schema_texts


def test_without_problems(owner: Any) -> None:
    """Without problems the exit code is 0, every subject is reported, and nothing was created or changed."""
    before = sorted(path for path in owner.folder.rglob("*"))
    report = owner.check()
    assert (report.status, report.worst()) == (0, []), report.output
    assert {each["subject"] for each in report.findings} == {
        *("configuration", "credential", "sharing", "state", "users", "reachability", "clock", "prices", "server")
    }
    assert sorted(path for path in owner.folder.rglob("*")) == before


def test_no_secret_is_shown(owner: Any) -> None:
    """No token of the credential or of a user appears, neither in text nor in JSON."""
    tokens = json.loads(owner.credential_path.read_text())["tokens"]
    secrets = [
        "sk-ocm-9vQ2mXc7RzLpT4yKbWfHsN8dGjE3aUo6",
        *(tokens[name] for name in ("id_token", "access_token", "refresh_token")),
    ]
    for report in (owner.check(), owner.check(as_json=False)):
        assert all(secret not in report.output + report.errors for secret in secrets)


def test_text(owner: Any) -> None:
    """As text, every finding is a line, with its remedy below it."""
    owner.credential_path.unlink()
    report = owner.check(as_json=False)
    assert report.status == 1
    assert f"PROBLEM  credential: There is no credential at {owner.credential_path}: no such file." in report.output
    assert "         -> ocm login\n" in report.output
    assert report.output.endswith("\n1 problem, 0 warnings.\n")


def test_settings_of_the_package(owner: Any) -> None:
    """In a folder without gunicorn.conf.py, the settings are those that `ocm serve` uses."""
    report = owner.check(folder=owner.folder, WEB_CONCURRENCY="3")
    (text,) = [each["text"] for each in report.findings if each["code"] == "worker_class"]
    assert text == "3 workers of 128 threads each (ocm_wsgi.server.worker.RelayWorker)."


def test_nothing_is_used(owner: Any, simulator: Any) -> None:
    """Upstream and issuer get one request each, without a credential."""
    owner.check()
    assert [(seen.method, seen.target) for seen in simulator.requests] == [
        ("GET", "/backend-api/codex/models"),
        ("GET", "/oauth/token"),
    ]
    assert all(seen.field("Authorization") is None for seen in simulator.requests)


def expired(owner: Any, simulator: Any) -> None:
    owner.put(simulator.credential(expires_in=-10))


def without_refresh_token(owner: Any, simulator: Any) -> None:
    content = simulator.credential()
    del content["tokens"]["refresh_token"]
    owner.put(content)


def without_account(owner: Any, simulator: Any) -> None:
    content = simulator.credential()
    del content["tokens"]["account_id"], content["tokens"]["id_token"]
    owner.put(content)


def damaged_database(owner: Any, _: Any) -> None:
    (owner.state_path / "ocm.db").write_text("no database" * 100)


def newer_database(owner: Any, _: Any) -> None:
    with sqlite3.connect(owner.state_path / "ocm.db") as connection:
        connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
        connection.execute("INSERT INTO meta VALUES ('schema_version', '999')")
    connection.close()


def old_backlog(owner: Any, _: Any) -> None:
    (owner.state_path / "spool").mkdir()
    journal = owner.state_path / "spool" / "1-a.journal"
    journal.write_bytes(b'\n{"user": "alice"}\n\n{"user": "bob"}\n' + bytes(1000))
    os.utime(journal, (time.time() - 3600,) * 2)


def spent_backlog(owner: Any, _: Any) -> None:
    (owner.state_path / "spool").mkdir()
    journal = owner.state_path / "spool" / "1-a.journal"
    journal.write_bytes(bytes(1000))
    os.utime(journal, (time.time() - 3600,) * 2)


def folder_unwritable(owner: Any, _: Any) -> None:
    owner.credential_path.parent.chmod(0o500)


def file_unwritable(owner: Any, _: Any) -> None:
    owner.credential_path.chmod(0o400)
    owner.credential_path.parent.chmod(0o500)


def api_key_unwritable(owner: Any, _: Any) -> None:
    owner.put({"OPENAI_API_KEY": "sk-key"})
    file_unwritable(owner, None)


CASES = [
    pytest.param(lambda o, _: o.credential_path.chmod(0), "credential", "unreadable", "problem", id="unreadable"),
    pytest.param(folder_unwritable, "credential", "folder_unwritable", "warning", id="folder-unwritable"),
    pytest.param(file_unwritable, "credential", "unwritable", "problem", id="file-unwritable"),
    pytest.param(api_key_unwritable, "credential", "unwritable", None, id="api-key-needs-no-writing"),
    pytest.param(lambda o, _: o.state_path.chmod(0o500), "state", "unwritable", "problem", id="state-unwritable"),
    pytest.param(lambda o, _: o.credential_path.unlink(), "credential", "missing", "problem", id="signed-out"),
    pytest.param(lambda o, _: o.put("{"), "credential", "broken", "problem", id="half-a-file"),
    pytest.param(lambda o, _: o.put({"auth_mode": "headers"}), "credential", "unusable", "problem", id="another-kind"),
    pytest.param(lambda o, _: o.put({"auth_mode": "chatgpt"}), "credential", "unusable", "problem", id="no-tokens"),
    pytest.param(lambda o, _: o.put({"OPENAI_API_KEY": "sk-key"}), "credential", "holder", "ok", id="api-key"),
    pytest.param(lambda o, _: o.credential_path.chmod(0o644), "credential", "open", "warning", id="readable"),
    pytest.param(expired, "credential", "expiry", "note", id="expired"),
    pytest.param(without_refresh_token, "credential", "no_refresh_token", "problem", id="no-refresh-token"),
    pytest.param(without_account, "credential", "no_account", "warning", id="no-account"),
    pytest.param(lambda o, _: o.state_path.rmdir(), "state", "missing", "note", id="no-state"),
    pytest.param(lambda o, _: o.state_path.chmod(0o755), "state", "open", "warning", id="open-state"),
    pytest.param(damaged_database, "state", "database", "problem", id="damaged-database"),
    pytest.param(newer_database, "state", "database", "problem", id="newer-database"),
    pytest.param(old_backlog, "state", "backlog", "warning", id="old-backlog"),
    pytest.param(spent_backlog, "state", "backlog", "ok", id="journal-that-was-read"),
    pytest.param(
        lambda o, _: (o.folder / "ocm.json").chmod(0o604), "configuration", "readable", "warning", id="config"
    ),
    pytest.param(lambda o, _: (o.folder / "ocm.json").chmod(0o602), "configuration", "writable", "problem", id="open"),
]


@pytest.mark.parametrize(("spoil", "subject", "code", "level"), CASES)
def test_fault_is_found(
    owner: Any, simulator: Any, spoil: Callable[[Any, Any], None], subject: str, code: str, level: str | None
) -> None:
    """Each fault is found at its level; problems and warnings have a remedy; a problem sets the exit code."""
    spoil(owner, simulator)
    report = owner.check()
    assert report.level(subject, code) == level, report.output
    assert all(each["remedy"] for each in report.findings if each["level"] in ("problem", "warning"))
    assert report.status == (1 if any(each["level"] == "problem" for each in report.findings) else 0)


def test_earlier_database(owner: Any) -> None:
    """What an upgrade of the database would do is reported, and not done."""
    with contextlib.closing(sqlite3.connect(owner.state_path / "ocm.db")) as connection:
        connection.executescript(schema_texts.path_of(1, "sqlite").read_text())
        connection.execute("INSERT INTO meta VALUES ('schema_version', '1')")
        connection.commit()
        report = owner.check()
        assert (report.status, report.level("state", "upgrade")) == (0, "note"), report.output
        (text,) = (each["text"] for each in report.findings if each["code"] == "upgrade")
        assert f"has schema 1. This release upgrades it to schema {SCHEMA_VERSION} when" in text
        assert all(f"Schema {step.version}: {step.text}." in text for step in upgrades.steps_after(1))
        assert connection.execute("SELECT value FROM meta").fetchall() == [("1",)]
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'stored_object'").fetchone() == (0,)


ENVIRONMENTS = [
    pytest.param({"OCM_DETOUR": "socks5h://user:secret@127.0.0.1:9"}, "reachability", "proxy", "problem", id="proxy"),
    pytest.param({"OCM_METRICS_TOKEN": "metrics"}, "configuration", "caution", "warning", id="weak-token"),
    pytest.param({"OCM_AUTH_BASE_URL": "http://127.0.0.1:9"}, "reachability", "unreachable", "problem", id="refused"),
    pytest.param({"OCM_AUTH_BASE_URL": "http://none.invalid"}, "reachability", "name", "problem", id="no-such-name"),
    pytest.param({"GUNICORN_CMD_ARGS": "-k gevent"}, "server", "worker_class", "warning", id="gevent"),
    pytest.param({"WEB_CONCURRENCY": "0"}, "server", "settings", "problem", id="no-workers"),
    pytest.param({"WEB_CONCURRENCY": "999"}, "server", "workers", "note", id="too-many-workers"),
    pytest.param(
        {"GUNICORN_CMD_ARGS": "--worker-connections 9999999"}, "server", "open_files", "note", id="open-files"
    ),
    pytest.param({"GUNICORN_CMD_ARGS": "--max-requests 9"}, "server", "max_requests", "warning", id="max-requests"),
    pytest.param({"GUNICORN_CMD_ARGS": "--keep-alive 2"}, "server", "keepalive", "warning", id="keepalive"),
    pytest.param({"GUNICORN_CMD_ARGS": "--graceful-timeout 5"}, "server", "graceful_timeout", "warning", id="grace"),
    pytest.param({"GUNICORN_CMD_ARGS": "--no-such-thing"}, "server", "settings", "problem", id="unknown-flag"),
    pytest.param({"OCM_LISTEN": "0.0.0.0", "OCM_LISTEN_PORT": "9"}, "server", "stopped", "note", id="stopped"),
    pytest.param({"OCM_STATE_PATH": "/etc/hostname/state"}, "state", "unmakeable", "problem", id="state-cannot-be"),
]


@pytest.mark.parametrize(("environ", "subject", "code", "level"), ENVIRONMENTS)
def test_fault_in_environment_is_found(
    owner: Any, environ: dict[str, str], subject: str, code: str, level: str
) -> None:
    """Faults caused by environment variables are found; passwords in these are not shown."""
    report = owner.check(**environ)
    levels = {each["level"] for each in report.findings if (each["subject"], each["code"]) == (subject, code)}
    assert levels == {level}, report.output
    assert "secret" not in report.output + report.errors


def test_file_mounted_by_itself(owner: Any, tmp_path: Path) -> None:
    """A single file that is mounted cannot be replaced atomically: the folder should be mounted."""
    outside = tmp_path / "outside.json"
    outside.write_text(owner.credential_path.read_text())
    subprocess.run(["mount", "--bind", outside, owner.credential_path], check=True)
    try:
        report = owner.check()
    finally:
        subprocess.run(["umount", "--lazy", owner.credential_path], check=True)
    assert report.level("credential", "mounted") == "warning"
    assert report.level("credential", "writable") is None


def test_every_problem_in_the_configuration(owner: Any) -> None:
    """An invalid configuration ends the check: its problems are the only findings."""
    owner.configure({"listen_prot": 8080, "reserve_5h": 101})
    report = owner.check()
    assert report.status == 1
    assert [each["code"] for each in report.findings] == ["mistake", "mistake"]
    assert "listen_port" in report.findings[0]["remedy"] + report.findings[1]["remedy"]


def test_what_the_configuration_opens(owner: Any) -> None:
    """Additional endpoints and allowed origins are listed, with who may use them and whether they are counted."""
    endpoints = [
        {"method": "GET", "path": "/v1/alpha/notes/{note}", "users": "all"},
        {"method": "POST", "path": "/v1/fine_tuning/alpha/graders/run"},
    ]
    owner.configure({"extra_endpoints": endpoints, "allow_origins": ["https://app.example.org"]})
    report = owner.check("--only-configuration")
    texts = [each["text"] for each in report.findings if each["code"] in ("extra_endpoint", "origins")]
    assert texts == [
        "GET /v1/alpha/notes/{note} is relayed for all users, not counted.",
        "POST /v1/fine_tuning/alpha/graders/run is relayed for admins only, counted as a turn.",
        "Web pages of these origins may use the API: https://app.example.org.",
    ]
    assert report.status == 0


def test_configuration_alone(owner: Any, simulator: Any) -> None:
    """With --only-configuration nothing else is checked, and a problem sets the exit code."""
    owner.credential_path.unlink()
    report = owner.check("--only-configuration")
    assert (report.status, {each["subject"] for each in report.findings}) == (0, {"configuration"})
    assert simulator.requests == []
    owner.configure({"listen_prot": 8080})
    assert owner.check("--only-configuration").status == 1
    contradiction = owner.check("--only-configuration", "--url", "https://ocm.example.org")
    assert (contradiction.status, contradiction.output) == (2, "")


def test_metrics_of_a_running_service_remain(owner: Any, tmp_path: Path) -> None:
    """Loading gunicorn's settings does not empty the folder of metrics, as a running service may use it."""
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (metrics / "counter_1.db").touch()
    assert owner.check(PROMETHEUS_MULTIPROC_DIR=str(metrics)).level("server", "worker_class") == "ok"
    assert [path.name for path in metrics.iterdir()] == ["counter_1.db"]


def test_database_is_named(owner: Any) -> None:
    """The finding names the database and its problem, and nothing else is printed."""
    damaged_database(owner, None)
    entry = json.loads((owner.folder / "ocm.json").read_text())
    owner.configure({**entry, "users": []})
    report = owner.check()
    (found,) = [each for each in report.findings if each["code"] == "database"]
    assert str(owner.state_path / "ocm.db") in found["text"]
    assert "not a database" in found["text"]
    assert report.errors == ""


def test_refused_sign_in(owner: Any, service: Any, simulator: Any) -> None:
    """A refusal that the service received is reported: the owner must sign in again."""
    running = service(credential=simulator.credential(expires_in=-10), users={}, workers=1)
    simulator.revoke_all()
    requests.get(f"{running.url}/v1/models", timeout=30)
    report = owner.check(OCM_CONFIG=str(running.folder / "ocm.json"))
    assert report.level("credential", "refused") == "problem", running.log_text()


def test_through_the_detour(owner: Any) -> None:
    """OpenAI is contacted through the detour, as by the service."""
    with ForwardProxy(Socks5).running() as proxy:
        report = owner.check(OCM_DETOUR=f"socks5h://scout:p%40ss%3Aword@127.0.0.1:{proxy.port}")
    assert report.status == 0, report.output
    assert len(proxy.targets) == 2
    assert "through the detour" in report.output
    assert "p@ss" not in report.output


def test_running_service(owner: Any) -> None:
    """A running service is detected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        report = owner.check(OCM_LISTEN_PORT=str(listener.getsockname()[1]))
    assert report.level("server", "listening") == "ok"


def test_users(owner: Any) -> None:
    """Services open to everyone, to users and to nobody are distinguished, wherever the users are defined."""
    entry = json.loads((owner.folder / "ocm.json").read_text())
    owner.configure({**entry, "users": []})
    assert owner.check().level("users", "everybody") == "note"
    environment = {"PATH": os.environ["PATH"], "OCM_CONFIG": str(owner.folder / "ocm.json")}
    assert run_flask_ocm("add-user", "bob", environment=environment).returncode == 0
    assert owner.check().level("users", "some") == "ok"
    assert run_flask_ocm("remove-user", "bob", "--yes", environment=environment).returncode == 0
    assert owner.check().level("users", "nobody") == "warning"


def test_lock_is_detected(owner: Any) -> None:
    """The process that holds a lock of the credential is named."""
    with (owner.credential_path.parent / "auth.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report = owner.check()
    assert report.level("sharing", "locked") == "note"
    [text] = [each["text"] for each in report.findings if each["code"] == "locked"]
    assert f"process {os.getpid()}" in text


def test_running_codex_is_detected(tmp_path: Path) -> None:
    """A process named codex is considered to be Codex."""
    (tmp_path / "codex").symlink_to("/bin/sleep")
    with subprocess.Popen([str(tmp_path / "codex"), "60"]) as process:
        try:
            deadline = time.monotonic() + 10
            while process.pid not in set(sharing._codex(Path("/proc"))):
                assert time.monotonic() < deadline
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("date", "now", "level"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0, "ok"),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0 - 29, "ok"),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0 + 31, "warning"),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0 - 241, "problem"),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0, "problem"),
        ("yesterday", 0.0, None),
        (None, 0.0, None),
    ],
)
def test_clock(date: str | None, now: float, level: str | None) -> None:
    """The clock is compared with the Date field; without a valid one there is no finding."""
    place = reachability._Endpoint("OpenAI", "key", "https://openai.com", "/")
    found = [finding.level.value for finding in reachability._clock(date, place, now=now)]
    assert found == ([] if level is None else [level])


def test_old_prices() -> None:
    """Price data installed long ago causes a note that says how to update it."""
    [finding] = prices.findings(now=time.time() + 100 * 86400)
    assert (finding.level.value, finding.code) == ("note", "old")
    assert "pip install --upgrade" in finding.remedy
