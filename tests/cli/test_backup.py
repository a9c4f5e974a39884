"""The commands backup and restore."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ocm_wsgi.cli.progress import progress_bar

Run = Callable[..., Result]

PASSPHRASE = "correct horse battery"
REFRESH_TOKEN = "rt-0123456789abcdef-secret"


@pytest.fixture
def credential(folder: Path) -> Path:
    """The owner's credential, in a folder of its own."""
    path = folder / "codex/auth.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-key", "note": REFRESH_TOKEN}))
    config = json.loads((folder / "ocm.json").read_text())
    (folder / "ocm.json").write_text(json.dumps({**config, "credential_path": str(path)}))
    (folder / "secret").write_text(f"{PASSPHRASE}\nanother line\n")
    return path


def test_backup_and_restore(run: Run, folder: Path) -> None:
    """A state is saved in a private file, and restored from it: users have the tokens that they had."""
    run("add-user", "alice", "--limit", "5 USD per day")
    before = run("list-users").output
    result = run("backup", "file")
    assert (result.exit_code, result.stdout) == (
        0,
        "Saved 1 user and 0 turns in file.\nThe owner's sign-in and the configuration are not in it.\n",
    )
    assert (folder / "file").stat().st_mode & 0o777 == 0o600
    shutil.rmtree(folder / "state")
    result = run("restore", "file")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Restored 1 user and 0 turns of 20")
    assert result.stdout.endswith(f" UTC into sqlite:///{folder}/state/ocm.db.\n")
    assert run("list-users").output == before


def test_json(run_json: Callable[..., Any], run: Run, folder: Path) -> None:
    """Both commands report as JSON what the file contains."""
    run("add-user", "alice")
    saved = run_json("backup", "file")
    assert saved.keys() == {"file", "created_at", "schema", "rows", "credential"}
    assert (saved["file"], saved["rows"]["user"], saved["credential"]) == ("file", 1, False)
    assert run_json("restore", "file", "--force") == saved


@pytest.mark.parametrize(
    ("arguments", "message", "exit_code"),
    [
        (("backup", "file"), "file exists already. --force replaces it.", 1),
        (("restore", "file"), "The state is not empty: it has rows in event (1), user (1). --force replaces them.", 1),
        (("restore", "ocm.json"), "ocm.json is not a backup made by `ocm backup`.", 1),
        (("restore", "missing"), "'missing' does not exist", 2),
        (("backup", "none/file"), "none/file.partial: No such file or directory", 1),
        (("backup", "new", "--with-credential"), "There is no credential at", 1),
        (("backup", "new", "--passphrase-file", "file"), "--passphrase-file is only for --with-credential.", 2),
        (("restore", "file", "--with-credential", "--force"), "does not contain the owner's sign-in", 1),
    ],
)
def test_refused(run: Run, folder: Path, arguments: tuple[str, ...], message: str, exit_code: int) -> None:
    """What cannot be done is refused with a sentence, and changes nothing."""
    run("add-user", "alice")
    run("backup", "file")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
    result = run(*arguments)
    assert (result.exit_code, message in result.stderr) == (exit_code, True), result.output
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()} == before
    assert "alice" in run("list-users").output


def test_nothing_to_back_up(run: Run, folder: Path) -> None:
    """Without a state there is no backup, and no state is created."""
    result = run("backup", "file")
    assert result.exit_code == 1
    assert f"The state database {folder}/state/ocm.db does not exist yet." in result.stderr
    assert {path.name for path in folder.iterdir()} == {"ocm.json", "home"}


def test_credential(run: Run, credential: Path, folder: Path) -> None:
    """The owner's sign-in is saved encrypted only, and restored only with its passphrase."""
    run("add-user", "alice")
    content = json.loads(credential.read_text())
    result = run("backup", "file", "--with-credential", "--passphrase-file", "secret")
    assert result.exit_code == 0, result.output
    assert "contains the owner's sign-in, encrypted" in result.stdout
    assert not any(secret in (folder / "file").read_bytes() for secret in (REFRESH_TOKEN.encode(), b"sk-key"))
    credential.unlink()
    assert "which --with-credential restores" in run("restore", "file", "--force").stdout
    assert not credential.exists()
    result = run(
        "restore", "file", "--force", "--with-credential", "--passphrase-file", "-", input="wrong passphrase\n"
    )
    assert (result.exit_code, "passphrase of the credential is wrong. Nothing was changed." in result.stderr) == (
        1,
        True,
    )
    result = run("restore", "file", "--force", "--with-credential", "--passphrase-file", "-", input=f"{PASSPHRASE}\n")
    assert result.exit_code == 0, result.output
    assert json.loads(credential.read_text()) == content
    assert credential.stat().st_mode & 0o777 == 0o600


def test_credential_without_passphrase(run: Run, credential: Path, folder: Path) -> None:
    """A sign-in is not saved without a passphrase, or with one that is quickly found."""
    run("add-user", "alice")
    result = run("backup", "file", "--with-credential")
    assert (result.exit_code, "only saved encrypted: use --passphrase-file" in result.stderr) == (2, True)
    (folder / "secret").write_text("short\n")
    result = run("backup", "file", "--with-credential", "--passphrase-file", "secret")
    assert (result.exit_code, "must have at least 12 characters" in result.stderr) == (1, True)
    assert not (folder / "file").exists()


def test_credential_of_another_account(run: Run, credential: Path, folder: Path) -> None:
    """A working sign-in is replaced only if that is forced; otherwise nothing has changed."""
    run("add-user", "alice")
    run("backup", "file", "--with-credential", "--passphrase-file", "secret")
    saved = credential.read_text()
    other = json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-other"})
    credential.write_text(other)
    shutil.rmtree(folder / "state")
    arguments = ("restore", "file", "--with-credential", "--passphrase-file", "secret")
    result = run(*arguments)
    assert (result.exit_code, "holds the working credential of" in result.stderr) == (1, True)
    assert credential.read_text() == other
    assert not (folder / "state").exists()
    assert run(*arguments, "--force").exit_code == 0
    assert json.loads(credential.read_text()) == json.loads(saved)


def test_credentials_of_several_accounts(run: Run, folder: Path) -> None:
    """The sign-ins of all accounts are saved, and restored to the accounts of the same tags."""
    run("add-user", "alice")
    config = {"state_path": "state"}
    for tag in ("work", "home"):
        (folder / f"{tag}.json").write_text(json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": f"sk-{tag}"}))
    entries = [{"tag": tag, "credential_path": f"{tag}.json"} for tag in ("work", "home")]
    (folder / "ocm.json").write_text(json.dumps({**config, "credentials": entries}))
    (folder / "secret").write_text(PASSPHRASE)
    result = run("backup", "file", "--with-credential", "--passphrase-file", "secret")
    assert result.exit_code == 0, result.output
    for tag in ("work", "home"):
        (folder / f"{tag}.json").unlink()
    arguments = ("restore", "file", "--force", "--with-credential", "--passphrase-file", "secret")
    assert run(*arguments).exit_code == 0
    assert [json.loads((folder / f"{tag}.json").read_text())["OPENAI_API_KEY"] for tag in ("work", "home")] == [
        "sk-work",
        "sk-home",
    ]
    (folder / "ocm.json").write_text(json.dumps({**config, "credentials": entries[:1]}))
    before = run("list-users").output
    result = run(*arguments)
    assert (result.exit_code, "a sign-in for the account home, which the configuration does not" in result.stderr) == (
        1,
        True,
    )
    assert run("list-users").output == before


def test_without_cryptography(run: Run, credential: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that encrypts, a sentence names it."""
    run("add-user", "alice")
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    result = run("backup", "file", "--with-credential", "--passphrase-file", "secret")
    assert (result.exit_code, "pip install 'ocm-wsgi[encryption]'" in result.stderr) == (1, True)
    assert not (folder / "file").exists()


def test_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, each step has a bar on standard error; elsewhere there is none."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, is_shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with progress_bar() as progress:
            for step in ("Copying", "Checking"):
                progress.begin(step, 10)
                progress.advance(10)
            progress.begin("Nothing", 0)
            progress.advance(0)
        assert all((step in stream.getvalue()) is is_shown for step in ("Copying", "Checking", "100%"))
