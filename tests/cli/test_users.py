"""The commands that manage users: their changes, confirmations, output and errors."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ocm_wsgi.config import load
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.directory import UserDirectory
from tests.forkserver import run_flask_ocm

Run = Callable[..., Result]
RunJson = Callable[..., Any]

FLASK = str(Path(sys.executable).parent / "flask")


def known_as(folder: Path, bearer_token: str) -> str:
    config = load({"HOME": str(folder)}, folder)
    database = Database(config.database_url)
    try:
        return UserDirectory(config.users, database).authenticate(bearer_token).name
    finally:
        database.close()


def test_add_user(run: Run, folder: Path) -> None:
    """The token is printed once, with the next step; it works, and is not stored on disk."""
    result = run("add-user", "alice", "--limit", "30% per week")
    assert result.exit_code == 0
    (token,) = [word for word in result.stdout.split() if word.startswith("sk-ocm-")]
    assert "ocm client-config alice" in result.stdout
    assert known_as(folder, token) == "alice"
    assert token not in run("show-user", "alice").output + run("list-users", "--json").output
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "ocm.db" for path in files)
    assert not any(token[7:].encode() in path.read_bytes() for path in files)


def test_add_user_options(run_json: RunJson) -> None:
    """Every option is stored as given."""
    options = ["--limit", "30% per week", "--limit", "$5/day", "--models", "gpt-5*", "--models", "o4"]
    options += ["--expires", "2099-01-31", "--max-concurrent", "3", "--admin"]
    added = run_json("add-user", "alice", *options)["user"]
    shown = run_json("show-user", "alice")
    assert added == {key: value for key, value in shown.items() if key != "uses"}
    assert shown["limits"] == ["30% per week", "5 USD per day"]
    assert shown["models"] == ["gpt-5*", "o4"]
    assert (shown["expires_at"], shown["max_concurrent"]) == ("2099-01-31T00:00:00Z", 3)
    assert (shown["admin"], shown["state"], shown["source"]) == (True, "admin", "database")
    assert [use["limit"] for use in shown["uses"]] == ["30% per week", "5 USD per day"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "reason"),
    [
        (["add-user"], 2, "Missing argument"),
        (["add-user", "alice", "--limit", "30 moons"], 2, "is not a limit"),
        (["add-user", "alice", "--expires", "soon"], 2, "is not a time"),
        (["add-user", "alice", "--expires", "2001-01-01"], 2, "is in the past"),
        (["add-user", "alice", "--max-concurrent", "0"], 2, "x>=1"),
        (["add-user", "al ice"], 1, "A name has"),
        (["add-user", "carol"], 1, "in the configuration"),
        (["add-user", "bob"], 1, "already"),
        (["show-user", "nobody"], 1, "no user nobody"),
        (["update-user", "bob"], 2, "at least one option"),
        (["update-user", "bob", "--limit", "5 USD per day", "--no-limits"], 2, "cannot be combined"),
        (["update-user", "nobody", "--disable"], 1, "no user nobody"),
        (["update-user", "carol", "--disable"], 1, "change it there"),
        (["rotate-token", "carol", "--yes"], 1, "change it there"),
        (["remove-user", "nobody", "--yes"], 1, "no user nobody"),
        (["usage", "--json", "--csv"], 2, "cannot be combined"),
        (["usage", "--by", "moon"], 2, "moon"),
        (["client-config", "nobody"], 1, "no user nobody"),
        (["client-config", "bob", "--base-url", "ocm.example.com"], 2, "https://"),
        (["no-such-command"], 2, "No such command"),
    ],
)
def test_errors(run: Run, arguments: list[str], exit_code: int, reason: str) -> None:
    """A failure is reported on stderr with exit code 1, a usage error with 2."""
    assert run("add-user", "bob").exit_code == 0
    result = run(*arguments)
    assert result.exit_code == exit_code
    assert reason in result.stderr
    assert result.stdout == ""


def test_update_user(run_json: RunJson) -> None:
    """Options change their settings only, and every setting can be removed."""
    run_json("add-user", "alice", "--limit", "30% per week", "--models", "o4", "--expires", "30d")
    changed = run_json("update-user", "alice", "--limit", "5 USD per day", "--disable", "--admin")
    assert (changed["limits"], changed["models"], changed["state"]) == (["5 USD per day"], ["o4"], "disabled")
    options = ["--no-limits", "--all-models", "--no-expiry", "--no-max-concurrent", "--enable", "--no-admin"]
    changed = run_json("update-user", "alice", *options)
    assert (changed["limits"], changed["models"], changed["expires_at"]) == ([], [], None)
    assert changed["state"] == "active"
    shown = run_json("show-user", "alice")
    assert changed == {key: value for key, value in shown.items() if key != "uses"}


@pytest.mark.parametrize("command", ["rotate-token", "remove-user"])
def test_confirmation(run: Run, run_json: RunJson, folder: Path, command: str) -> None:
    """Nothing is lost without confirmation."""
    token = run_json("add-user", "alice")["bearer_token"]
    for answer in ("n\n", "", "\n"):
        result = run(command, "alice", input=answer)
        assert result.exit_code == 1
        assert "Aborted" in result.stderr
        assert known_as(folder, token) == "alice"
    assert run(command, "alice", input="y\n").exit_code == 0
    assert run(command, "alice", "--yes").exit_code == (1 if command == "remove-user" else 0)


def test_rotate_token(run_json: RunJson, folder: Path) -> None:
    """The new token works; the old one no longer does."""
    old = run_json("add-user", "alice")["bearer_token"]
    new = run_json("rotate-token", "alice", "--yes")["bearer_token"]
    assert known_as(folder, new) == "alice"
    with pytest.raises(Exception, match="Unknown bearer token"):
        known_as(folder, old)


def test_list_users(run: Run, run_json: RunJson) -> None:
    """All users are listed by name, including those in the configuration."""
    run_json("add-user", "Dave")
    run_json("add-user", "alice")
    assert [user["name"] for user in run_json("list-users")] == ["alice", "carol", "Dave"]
    lines = run("list-users").stdout.splitlines()
    assert lines[0].split()[:2] == ["NAME", "STATE"]
    assert [line.split()[0] for line in lines[1:]] == ["alice", "carol", "Dave"]


def test_list_users_empty(run: Run, folder: Path) -> None:
    """Without users the next step is shown."""
    (folder / "ocm.json").write_text("{}")
    assert "ocm add-user NAME" in run("list-users", OCM_STATE_PATH=str(folder / "state")).stdout


@pytest.mark.parametrize("columns", ["40", "80", "200"])
@pytest.mark.parametrize("command", [("list-users",), ("show-user", "alice"), ("usage",), ("status",)])
def test_tables_fit(run: Run, columns: str, command: tuple[str, ...]) -> None:
    """Output fits any width of the terminal, with nothing left out."""
    limits = [
        option for limit in ("30% per week", "5 USD per day", "2M tokens per 5h") for option in ("--limit", limit)
    ]
    run("add-user", "alice", *limits, "--models", "gpt-5*", "--models", "gpt-6-*", "--expires", "2099-01-31")
    result = run(*command, COLUMNS=columns)
    widest = max(len(line) for line in result.stdout.splitlines())
    assert widest <= int(columns)
    if command == ("list-users",):
        assert "tokens" in result.stdout
        assert "2099-01-31" in result.stdout


def test_invalid_configuration(run: Run, folder: Path) -> None:
    """Every problem in the configuration is printed, without a traceback."""
    (folder / "ocm.json").write_text('{"listen_prot": 1, "users": [{"name": "alice"}]}')
    result = run("list-users")
    assert result.exit_code == 1
    assert "2 problems" in result.stderr
    assert "$.listen_prot" in result.stderr
    assert "$.users[0].token" in result.stderr


@pytest.mark.parametrize("command", ["login", "logout"])
def test_invalid_configuration_as_json(run: Run, folder: Path, command: str) -> None:
    """With --json an invalid configuration is an event like any other failure."""
    (folder / "ocm.json").write_text("{")
    result = run(command, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["event"] == "failed"
    assert result.stderr == ""


def test_unusable_state(run: Run, folder: Path) -> None:
    """A state folder that cannot be created is a one-line error."""
    (folder / "state").write_text("in the way")
    result = run("list-users")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The state database cannot be")


def test_locked_database(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database locked by another program is a one-line error."""
    monkeypatch.setattr("ocm_wsgi.storage.engines.BUSY_TIMEOUT_SECONDS", 0.1)
    run("add-user", "alice")
    with closing(sqlite3.connect(folder / "state" / "ocm.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        result = run("add-user", "bob")
        other.rollback()
    assert result.exit_code == 1
    assert result.stderr == "Error: The state database cannot be used at the moment. (database is locked)\n"


def test_full_disk(folder: Path) -> None:
    """Output that cannot be written is a one-line error too."""
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [FLASK, "ocm", "list-users"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "No space left on device" in result.stderr


def test_concurrent_processes(folder: Path) -> None:
    """Ten processes that add users at the same time, to a database that does not exist yet, all succeed."""
    in_folder = partial(run_flask_ocm, environment={"PATH": os.environ["PATH"], "HOME": str(folder)}, folder=folder)
    assert in_folder("--help").returncode == 0
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(lambda number: in_folder("add-user", f"user-{number}"), range(10)))
    assert [result.returncode for result in results] == [0] * 10, results
    listed = in_folder("list-users").stdout
    assert all(f"user-{number} " in listed for number in range(10))


def test_completion(run: Run, folder: Path) -> None:
    """The shell completes users' names; with an invalid configuration it completes and prints nothing."""
    run("add-user", "alice")
    words = {"_FLASK_COMPLETE": "bash_complete", "COMP_WORDS": "flask ocm show-user a", "COMP_CWORD": "3"}
    for more, expected in (({}, "plain,alice"), ({"OCM_CONFIG": "/nowhere.json"}, "")):
        result = subprocess.run(
            [FLASK], env={**os.environ, **words, **more}, capture_output=True, text=True, check=False, timeout=60
        )
        assert (result.stdout.strip(), result.stderr) == (expected, "")
