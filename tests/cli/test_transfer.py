"""The commands export and import."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def alice(run: Run) -> None:
    """A user."""
    assert run("add-user", "alice", "--limit", "5 USD per day").exit_code == 0


@pytest.mark.usefixtures("alice")
@pytest.mark.parametrize("name", ["users.jsonl", "users.csv", "users.CSV"])
def test_export_and_import(run: Run, folder: Path, name: str) -> None:
    """Users are written to a private file in the format of its name, and added from it with their tokens."""
    before = run("list-users").output
    result = run("export", "users", "--output", name)
    assert (result.exit_code, result.output) == (0, "")
    assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert (folder / name).read_text().startswith("name,token_sha256," if name != "users.jsonl" else '{"name": "alice"')
    assert not (folder / f"{name}.partial").exists()
    shutil.rmtree(folder / "state")
    result = run("import", "users", name)
    assert (result.exit_code, result.output) == (0, "Added 1 user.\n")
    assert run("list-users").output == before
    result = run("import", "users", name, "--skip-existing", "--json")
    assert json.loads(result.stdout) == {"added": 0, "skipped": 1}


@pytest.mark.usefixtures("alice")
def test_standard_streams(run: Run, folder: Path) -> None:
    """Without a file, an export goes to standard output; an import reads standard input for ``-``."""
    text = run("export", "users").stdout
    assert json.loads(text)["name"] == "alice"
    shutil.rmtree(folder / "state")
    result = run("import", "users", "-", input="\ufeff" + text)
    assert (result.exit_code, result.output) == (0, "Added 1 user.\n")
    result = run("import", "turns", "--format", "csv", "-", input="id,started_at,user\na,1,alice\nb,2,alice\n")
    assert (result.exit_code, result.output) == (0, "Added 2 turns.\n")
    result = run("import", "turns", "-", input='{"id": "a", "started_at": 1, "user": "alice"}')
    assert (result.exit_code, result.output) == (0, "Added 0 turns, left out 1 that are there already.\n")
    assert run("export", "turns", "--format", "csv", "--since", "2000-01-01").stdout.count("\n") == 1


@pytest.mark.usefixtures("alice")
@pytest.mark.parametrize(
    ("arguments", "message", "exit_code"),
    [
        (("export", "users", "--output", "ocm.json"), "ocm.json exists already. --force replaces it.", 1),
        (("export", "users", "--since", "7d"), "--since is only for turns.", 2),
        (("export", "events"), "'events' is not one of", 2),
        (("export", "users", "--output", "none/file"), "none/file.partial: No such file or directory", 1),
        (("import", "users", "none"), "'none' does not exist", 2),
        (("import", "users", "ocm.json"), "Line 1: name is missing. Nothing was imported.", 1),
        (("import", "turns", "ocm.json", "--skip-existing"), "--skip-existing is only for users", 2),
    ],
)
def test_refused(run: Run, folder: Path, arguments: tuple[str, ...], message: str, exit_code: int) -> None:
    """What cannot be done is refused with a sentence, and changes nothing."""
    before = (folder / "ocm.json").read_bytes()
    result = run(*arguments)
    assert (result.exit_code, message in result.stderr) == (exit_code, True), result.output
    assert (folder / "ocm.json").read_bytes() == before


@pytest.mark.usefixtures("alice")
def test_export_replaces(run: Run, folder: Path) -> None:
    """An existing file is replaced if that is forced."""
    (folder / "users.csv").write_text("old")
    assert run("export", "users", "--output", "users.csv", "--force").exit_code == 0
    assert "alice" in (folder / "users.csv").read_text()
