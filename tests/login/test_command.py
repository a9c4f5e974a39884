"""``ocm login`` and ``logout`` as real processes, against the simulated issuer."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from ocm_wsgi.simulator import Plan


def events(output: str) -> list[dict[str, Any]]:
    """Return what ``--json`` printed."""
    return [json.loads(line) for line in output.splitlines()]


def read_until(descriptor: int, pattern: str, *, seconds: float = 20) -> str:
    """Read from a terminal until it shows ``pattern``."""
    seen, deadline = "", time.monotonic() + seconds
    while not re.search(pattern, seen):
        assert select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0], seen
        seen += os.read(descriptor, 4096).decode()
    return seen


def test_device_code(owner: Any) -> None:
    """The code is shown, the login waits for approval, and the file is like one written by Codex 0.169."""
    result = owner.run("login")
    assert result.returncode == 0, result.stderr
    [polled, _] = owner.simulator.seen("/api/accounts/deviceauth/token")
    assert f"{owner.simulator.url}/codex/device" in result.stdout
    assert json.loads(polled.body)["user_code"] in result.stdout
    assert "Signed in as acct-owner@example.com (plus)" in result.stdout
    content = owner.content()
    assert list(content) == ["auth_mode", "OPENAI_API_KEY", "tokens", "last_refresh"]
    assert list(content["tokens"]) == [
        *("id_token", "access_token", "refresh_token"),
        *("oauth_provenance", "login_owner_id", "account_id"),
    ]
    assert (content["auth_mode"], content["OPENAI_API_KEY"]) == ("chatgpt", None)
    assert content["tokens"]["account_id"] == "acct-owner"
    assert content["tokens"]["oauth_provenance"] == {
        "issuer": owner.simulator.url,
        "client_id": "app_EMoamEEZ73f0CkXaXp7hrann",
    }
    assert re.fullmatch(r"[\w-]{43}", content["tokens"]["login_owner_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", content["last_refresh"])


def test_file_and_folder_are_private(owner: Any) -> None:
    """The new file and its folder are private to their owner; both lock files exist, and nothing else is left."""
    owner.run("login")
    assert stat.S_IMODE(owner.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(owner.path.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in owner.path.parent.iterdir()) == ["auth.json", "auth.json.lock", "auth.lock"]


def test_no_token_is_shown(owner: Any) -> None:
    """Neither the text nor the JSON output contains a token."""
    for arguments in (("login",), ("login", "--json")):
        result = owner.run(*arguments)
        assert all(secret not in result.stdout + result.stderr for secret in owner.secrets())


def test_json(owner: Any) -> None:
    """With --json each line is an object: the code first, while it can still be entered, then the outcome."""
    owner.simulator.device_polls = None
    with owner.start("login", "--json") as process:
        shown = json.loads(process.stdout.readline())
        owner.simulator.approve_device(shown["user_code"])
        stdout, _ = process.communicate(timeout=60)
    assert (shown["event"], shown["expires_in_seconds"]) == ("device_code", 900)
    assert shown["verification_url"] == f"{owner.simulator.url}/codex/device"
    [outcome] = events(stdout)
    assert outcome == {
        "event": "signed_in",
        "mode": "chatgpt",
        "account_id": "acct-owner",
        "email": "acct-owner@example.com",
        "plan_type": "plus",
        "credential_path": str(owner.path),
    }


@pytest.mark.parametrize("is_complete", [True, False], ids=["address", "query"])
def test_browser(owner: Any, is_complete: bool) -> None:
    """The URL at which the browser ends, or its query, is exchanged with the verifier of the same login."""
    with owner.start("login", "--browser", "--json") as process:
        shown = json.loads(process.stdout.readline())
        callback = requests.get(shown["url"], allow_redirects=False, timeout=10).headers["Location"]
        pasted = callback if is_complete else urlsplit(callback).query
        stdout, _ = process.communicate(pasted + "\n", timeout=60)
    assert [event["event"] for event in events(stdout)] == ["signed_in"]
    query = {name: values[0] for name, values in parse_qs(urlsplit(shown["url"]).query).items()}
    assert query["scope"] == "openid profile email offline_access api.connectors.read api.connectors.invoke"
    assert callback.startswith("http://127.0.0.1:1455/auth/callback?")
    assert owner.content()["tokens"]["account_id"] == "acct-owner"


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        pytest.param("", "cancelled", id="end-of-input"),
        pytest.param("\n", "not_the_callback", id="empty"),
        pytest.param("https://chatgpt.com/\n", "not_the_callback", id="elsewhere"),
        pytest.param("http://127.0.0.1:1455/auth/callback?code=c&state=other\n", "wrong_state", id="another-login"),
        pytest.param("http://127.0.0.1:1455/auth/callback?error=access_denied\n", "denied", id="declined"),
        pytest.param("http://127.0.0.1:1455/auth/callback?error=server_error\n", "refused", id="error"),
    ],
)
def test_wrong_url_is_refused(owner: Any, typed: str, code: str) -> None:
    """Any URL that does not belong to this login is refused, not sent to the issuer, and nothing is written."""
    result = owner.run("login", "--browser", "--json", typed=typed)
    assert (result.returncode, events(result.stdout)[-1]["code"]) == (1, code)
    assert owner.simulator.seen("/oauth/token") == []
    assert not owner.path.exists()


@pytest.mark.parametrize("answer", [Plan(status=401, json={"error": "invalid_grant"}), Plan(status=500, json={})])
def test_refused_code_writes_nothing(owner: Any, answer: Plan) -> None:
    """A failed exchange is reported in one sentence, and no file is created."""
    owner.simulator.plan(answer, path="/oauth/token")
    result = owner.run("login")
    assert (result.returncode, owner.path.exists()) == (1, False)
    assert "OpenAI did not accept the sign-in" in result.stderr


def test_all_tokens_are_required(owner: Any) -> None:
    """A response without a refresh token is an error."""
    owner.simulator.plan(Plan(omit=("refresh_token",)), path="/oauth/token")
    result = owner.run("login", "--json")
    assert (result.returncode, events(result.stdout)[-1]["code"]) == (1, "misunderstood")
    assert not owner.path.exists()


def test_unreachable_issuer(owner: Any) -> None:
    """If the issuer is unreachable, the message names the host and what to check."""
    owner.configure(auth_base_url="http://127.0.0.1:9")
    result = owner.run("login")
    assert result.returncode == 1
    assert "127.0.0.1 cannot be reached" in result.stderr
    assert "`detour`" in result.stderr


def test_same_account_is_replaced_without_asking(owner: Any) -> None:
    """Signing in once more replaces the tokens, and makes the file private again."""
    owner.put(owner.simulator.credential())
    owner.path.chmod(0o644)
    before = owner.secrets()
    result = owner.run("login")
    assert result.returncode == 0, result.stderr
    assert "holds the credential of acct-owner@example.com" in result.stdout
    assert set(before).isdisjoint(owner.secrets())
    assert stat.S_IMODE(owner.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("other", ["account", "api-key"])
def test_another_credential_is_kept(owner: Any, other: str) -> None:
    """A working credential of another account is kept by default; the unused new tokens are revoked."""
    standing = (
        owner.simulator.credential(account="acct-other") if other == "account" else {"OPENAI_API_KEY": "sk-of-other"}
    )
    owner.put(standing)
    result = owner.run("login")
    assert result.returncode == 1
    assert "Use --yes to replace it" in result.stderr
    assert owner.content() == standing
    assert len(owner.simulator.seen("/oauth/revoke")) == 1
    assert owner.run("login", "--yes").returncode == 0
    assert owner.content()["tokens"]["account_id"] == "acct-owner"


@pytest.mark.parametrize("standing", ["", "{", "[]", '{"auth_mode": "chatgpt"}', '{"auth_mode": "agentIdentity"}'])
def test_unusable_file_is_replaced(owner: Any, standing: str) -> None:
    """A file without a usable credential is replaced without confirmation."""
    owner.put(standing)
    result = owner.run("login")
    assert result.returncode == 0, result.stderr
    assert owner.content()["tokens"]["account_id"] == "acct-owner"


def test_link_stays_a_link(owner: Any) -> None:
    """A symbolic link is followed, even a dangling one."""
    owner.path.parent.mkdir()
    (owner.folder / "elsewhere").mkdir()
    owner.path.symlink_to(owner.folder / "elsewhere" / "auth.json")
    assert owner.run("login").returncode == 0
    assert owner.path.is_symlink()
    assert (owner.folder / "elsewhere" / "auth.json").is_file()


def test_waits_for_the_locks(owner: Any) -> None:
    """Nothing is written until another program releases Codex's lock."""
    owner.path.parent.mkdir()
    with (owner.path.parent / "auth.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with owner.start("login", "--json") as process:
            assert owner.simulator.wait_for(lambda: owner.simulator.seen("/oauth/token"))
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            assert not owner.path.exists()
            fcntl.flock(lock, fcntl.LOCK_UN)
            process.communicate(timeout=30)
    assert owner.content()["auth_mode"] == "chatgpt"


def test_asks_at_a_terminal(owner: Any) -> None:
    """The user sees that it waits, and must confirm before another account's credential is replaced."""
    owner.put(owner.simulator.credential(account="acct-other"))
    owner.simulator.device_polls = None
    ours, theirs = pty.openpty()
    try:
        with owner.start("login", stdin=theirs, stdout=theirs, stderr=theirs) as process:
            seen = read_until(ours, r"Waiting for you \.\.\. 14:\d\d left")
            (code,) = re.findall(r"[0-9A-F]{4}-[0-9A-F]{4}", seen)
            owner.simulator.approve_device(code)
            read_until(ours, r"credential of acct-other@example.com \(plus\)\. Replace it\? \[y/N\]")
            os.write(ours, b"y\n")
            read_until(ours, "Signed in as acct-owner@example.com")
            assert process.wait(30) == 0
    finally:
        os.close(theirs)
        os.close(ours)
    assert owner.content()["tokens"]["account_id"] == "acct-owner"


@pytest.mark.parametrize(
    "arguments", [("login", "--json"), ("login", "--browser", "--json")], ids=["device", "browser"]
)
def test_interrupted(owner: Any, arguments: tuple[str, ...]) -> None:
    """Ctrl-C ends it with one message, and nothing is left behind."""
    owner.simulator.device_polls = None
    with owner.start(*arguments) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert [event["code"] for event in events(stdout)] == ["cancelled"]
    assert stderr == ""
    assert not owner.path.exists()


def test_logout(owner: Any) -> None:
    """The refresh token is revoked with the client ID it was issued to, and the file is removed."""
    owner.run("login")
    refresh_token = owner.content()["tokens"]["refresh_token"]
    result = owner.run("logout", "--yes")
    assert (result.returncode, owner.path.exists()) == (0, False), result.stderr
    assert "OpenAI has revoked them" in result.stdout
    [revoked] = owner.simulator.seen("/oauth/revoke")
    assert json.loads(revoked.body) == {
        "token": refresh_token,
        "token_type_hint": "refresh_token",
        "client_id": "app_EMoamEEZ73f0CkXaXp7hrann",
    }


def test_logout_asks(owner: Any) -> None:
    """Without --yes and without a terminal, nothing happens."""
    owner.run("login")
    before = owner.content()
    result = owner.run("logout")
    assert (result.returncode, owner.content()) == (1, before)
    assert owner.simulator.seen("/oauth/revoke") == []


def test_logout_while_issuer_is_down(owner: Any) -> None:
    """The tokens are removed from the machine anyway, and the owner learns what is left to do."""
    owner.put(owner.simulator.credential())
    owner.configure(auth_base_url="http://127.0.0.1:9")
    result = owner.run("logout", "--yes")
    assert (result.returncode, owner.path.exists()) == (0, False)
    assert "Revoking them at OpenAI failed" in result.stdout


def test_logout_keeps_unknown_members(owner: Any) -> None:
    """Members that neither Codex nor we know stay in the file; all tokens are removed."""
    owner.put({**owner.simulator.credential(), "ours": {"note": 1}})
    assert owner.run("logout", "--yes").returncode == 0
    assert owner.content() == {"ours": {"note": 1}}


def test_logout_twice(owner: Any) -> None:
    """Signing out twice is not an error, and creates no file or folder."""
    assert owner.run("logout", "--yes", "--json").stdout == json.dumps({"event": "signed_out", "revoked": False}) + "\n"
    assert not owner.path.parent.exists()


def test_file_that_cannot_be_written(owner: Any, tmp_path: Path) -> None:
    """An unwritable path is named, with what to do about it."""
    (tmp_path / "codex").write_text("a file where a folder should be")
    result = owner.run("login")
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
