"""All states of the credential file, on a real file system."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ocm_wsgi.credentials import Mode, auth_file_reader
from ocm_wsgi.credentials.auth_file_reader import FileVersion
from ocm_wsgi.errors import CredentialRejected, CredentialUnavailable
from tests.credentials.credential_home import Home
from tests.credentials.credential_worker import WORKER, task_of

Damage = Callable[[Home], object]


def settle(home: Home) -> None:
    """Make the file old enough that any later version has other timestamps."""
    while not FileVersion.of(os.stat(home.path)).is_settled:
        os.sched_yield()


def make_directory(home: Home) -> None:
    """Put a directory in its place, as a container runtime does for a missing file."""
    home.path.unlink(missing_ok=True)
    home.path.mkdir()


def make_dangling(home: Home) -> None:
    """Put a dangling symbolic link in its place."""
    home.path.unlink(missing_ok=True)
    home.path.symlink_to("nowhere.json")


def make_pipe(home: Home) -> None:
    """Put a pipe without a writer in its place."""
    home.path.unlink(missing_ok=True)
    os.mkfifo(home.path)


GONE = [
    pytest.param(lambda home: home.path.unlink(missing_ok=True), id="gone"),
    pytest.param(make_dangling, id="dangling-link"),
    pytest.param(make_directory, id="directory"),
    pytest.param(make_pipe, id="pipe"),
]
BROKEN = [
    pytest.param(lambda home: home.path.write_bytes(b""), id="empty"),
    pytest.param(lambda home: home.path.write_bytes(b'{"auth_mode": "chat'), id="half"),
    pytest.param(lambda home: home.path.write_bytes(b"\xff\xfe\x00"), id="not-utf-8"),
    pytest.param(lambda home: home.write([1, 2]), id="not-an-object"),
    pytest.param(lambda home: home.path.write_bytes(b" " * 2_000_000), id="too-large"),
]


@pytest.mark.parametrize("damage", [*GONE, *BROKEN])
def test_start_without_a_usable_file(home: Home, damage: Damage) -> None:
    """The service starts without a credential, reports that, and uses one when it appears."""
    damage(home)
    source = home.source()
    with pytest.raises(CredentialUnavailable) as caught:
        source.current()
    assert str(home.folder) not in caught.value.message
    if home.path.is_dir():
        home.path.rmdir()
    home.sign_in()
    assert source.current().access_token == home.access_token()


@pytest.mark.parametrize("damage", GONE)
def test_removed_file_is_a_sign_out(home: Home, damage: Damage) -> None:
    """When the file is removed, its credential is no longer used, even if it is still valid."""
    home.sign_in()
    source = home.source()
    source.current()
    damage(home)
    with pytest.raises(CredentialUnavailable, match="codex login"):
        source.current()


@pytest.mark.parametrize("damage", BROKEN)
def test_broken_file_keeps_the_last_valid_token(home: Home, damage: Damage) -> None:
    """While the file is invalid, the last valid token is used until it expires."""
    now = [time.time()]
    home.sign_in()
    source = home.source(clock=lambda: now[0])
    good = source.current()
    damage(home)
    assert source.current() == good
    now[0] += 3590
    assert source.current() == good
    now[0] += 70
    with pytest.raises(CredentialUnavailable):
        source.current()
    with pytest.raises(CredentialUnavailable):
        source.replacement(good, "token_invalidated")
    assert home.outcomes() == []


def test_unusable_file_does_not_keep_the_last_valid_token(home: Home) -> None:
    """A valid file without a usable credential replaces the last valid one."""
    home.sign_in()
    source = home.source()
    source.current()
    home.write({"auth_mode": "chatgpt", "tokens": None})
    with pytest.raises(CredentialRejected, match="not signed in"):
        source.current()


def test_half_written_is_read_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that an older Codex is writing, after truncating it, is read again until it is complete."""
    defaults = auth_file_reader.read_with_retries.__kwdefaults__
    assert defaults
    monkeypatch.setitem(defaults, "timeout_seconds", 60.0)
    content = home.sign_in()
    source = home.source()
    source.current()
    content["tokens"]["access_token"] = "the-next"
    data = json.dumps(content).encode()
    with open(home.path, "wb", buffering=0) as file:
        file.write(data[:100])
        got: list[str] = []
        reader = threading.Thread(target=lambda: got.append(source.current().access_token))
        reader.start()
        reader.join(0.1)
        assert reader.is_alive()
        file.write(data[100:])
    reader.join()
    assert got == ["the-next"]


def test_broken_file_is_retried_once(home: Home) -> None:
    """A file that stays broken delays the first request by a second, and the others not at all."""
    home.path.write_text("{")
    source = home.source()
    with pytest.raises(CredentialUnavailable):
        source.current()
    settle(home)
    before = time.monotonic()
    for _ in range(100):
        with pytest.raises(CredentialUnavailable):
            source.current()
    assert time.monotonic() - before < 50


def test_change_in_place_within_one_tick(home: Home) -> None:
    """Two writes of the same size, so close that the timestamps are equal, are distinguished."""
    source = home.source()
    for number in range(300):
        home.path.write_text(json.dumps({"OPENAI_API_KEY": f"sk-{number:04}"}))
        assert source.current().access_token == f"sk-{number:04}"


def test_unchanged_is_not_read_again(home: Home) -> None:
    """While nothing changes, the cached credential is returned."""
    home.write({"OPENAI_API_KEY": "sk-1"})
    source = home.source()
    settle(home)
    assert source.current() is source.current()


def test_symbolic_link_is_followed(home: Home, tmp_path: Path) -> None:
    """A symbolic link is followed, also after it has changed."""
    home.write({"OPENAI_API_KEY": "sk-1"})
    (tmp_path / "other.json").write_text('{"OPENAI_API_KEY": "sk-2"}')
    link = tmp_path / "link.json"
    link.symlink_to(home.path)
    source = home.source(path=link)
    assert source.current().access_token == "sk-1"
    link.unlink()
    link.symlink_to("other.json")
    assert source.current().access_token == "sk-2"


def test_bind_mounted_file_is_read_as_it_changes(home: Home, tmp_path: Path, mount: Callable[..., None]) -> None:
    """A bind-mounted file is read, and read again after it was written in place."""
    outside = tmp_path / "outside.json"
    outside.write_text('{"OPENAI_API_KEY": "sk-1"}')
    home.path.touch()
    mount("--bind", outside, home.path)
    source = home.source()
    assert source.current().access_token == "sk-1"
    outside.write_text('{"OPENAI_API_KEY": "sk-2"}')
    assert source.current().access_token == "sk-2"


def test_unreadable_file(home: Home) -> None:
    """A file that the service is not allowed to read is reported immediately."""
    home.sign_in()
    home.path.chmod(0)
    # Root without the capabilities to bypass permissions is like any other user.
    worker = subprocess.run(
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, WORKER, task_of(home)],
        input="go\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    (result,) = json.loads(worker.stdout.splitlines()[1])
    assert result["status"] == 503
    assert "is not allowed to read" in result["message"]
    assert result["detail"] == "credential file: Permission denied"


def test_api_key_is_used_as_it_is(home: Home) -> None:
    """An API key neither expires nor is refreshed; if upstream rejects it, only the owner can fix that."""
    home.write({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-1"})
    source = home.source(clock=lambda: 4e9)
    credential = source.current()
    assert (credential.mode, credential.access_token) == (Mode.API_KEY, "sk-1")
    with pytest.raises(CredentialRejected, match="API key"):
        source.replacement(credential, "invalid_api_key")
    home.write({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-2"})
    assert source.replacement(credential).access_token == "sk-2"


def test_changes_are_logged_once(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """Each change of the file's state is logged once, without tokens and IDs."""
    caplog.set_level(logging.DEBUG)
    source = home.source()
    secrets: list[str] = []

    def look() -> None:
        for _ in range(3):
            try:
                source.current()
            except (CredentialRejected, CredentialUnavailable):
                continue

    def sign_in(account: str) -> None:
        secrets.extend([account, *map(str, home.sign_in(account=account)["tokens"].values())])

    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: sign_in("acct-one"),
        lambda: sign_in("acct-one"),
        lambda: sign_in("acct-two"),
        lambda: home.path.write_text("{"),
        lambda: home.write({"auth_mode": "headers"}),
        lambda: home.path.unlink(),
    ]
    for step in steps:
        step()
        look()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("ocm_wsgi.credentials")] == [
        "There is no credential file: no such file",
        "Found the credential file (chatgpt)",
        "The credential file has changed (chatgpt)",
        "The credential file now belongs to another account (chatgpt)",
        "The credential file cannot be used: it is not JSON",
        "The credential file contains no usable credential: auth_mode is neither chatgpt nor apikey",
        "There is no credential file: no such file",
    ]
    assert not any(secret in caplog.text for secret in secrets)


def test_socket_in_its_place(home: Home) -> None:
    """A socket in place of the file is an expected failure, too."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.path))
        with pytest.raises(CredentialUnavailable):
            home.source().current()
