"""Refreshing a credential: when, how often, and the resulting file."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import signal
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from ocm_wsgi.config import Certificate
from ocm_wsgi.credentials import Timeouts
from ocm_wsgi.errors import CredentialRejected, CredentialUnavailable
from ocm_wsgi.simulator import Plan, Simulator
from tests.credentials.credential_home import TIMEOUTS, Home, eventually, held, helper_of, helpers_of
from tests.proxies import ForwardProxy, Socks5

TOKEN = "/oauth/token"
REPOSITORY = Path(__file__).resolve().parents[2]


def in_threads(ask: Callable[[], Any], threads: int = 10) -> list[Any]:
    """Return the results of ``ask`` in several threads that run at the same time."""
    together = threading.Barrier(threads)
    results: list[Any] = []

    def run() -> None:
        together.wait()
        results.append(ask())

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return results


@pytest.mark.parametrize("expires_in", [301.0, 3600.0])
def test_not_due(home: Home, expires_in: float) -> None:
    """Until five minutes before it expires, an access token is used unchanged."""
    now = time.time() - 0.5
    home.sign_in(expires_in=expires_in, last_refresh="2020-01-01T00:00:00Z")
    assert home.source(clock=lambda: now).current().access_token == home.access_token()
    assert home.outcomes() == []


def test_expired_is_refreshed_once_for_all_threads(home: Home) -> None:
    """When the token has expired, all threads wait for one refresh and use its result."""
    home.sign_in(expires_in=-1)
    source = home.source()
    credentials = in_threads(source.current)
    assert home.outcomes() == ["rotated"]
    assert {credential.access_token for credential in credentials} == {home.access_token()}
    assert credentials[0].expires_at > time.time() + 3000


def test_expiring_is_refreshed_in_the_background(home: Home) -> None:
    """In its last five minutes a token is refreshed while all threads keep using it."""
    gate = home.simulator.gate().at("rotation")
    home.simulator.plan(Plan(gate=gate), path=TOKEN)
    before = home.sign_in(expires_in=200)["tokens"]["access_token"]
    source = home.source()
    assert {credential.access_token for credential in in_threads(source.current)} == {before}
    assert gate.reached.wait(30)
    assert source.current().access_token == before
    gate.release()
    eventually(lambda: source.current().access_token != before)
    assert source.current().access_token == home.access_token()
    assert home.outcomes() == ["rotated"]
    assert home.simulator.refreshes[0].reason == "proactive_expiry"


def test_expiring_with_a_dead_endpoint_is_used(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """While the token is valid, a temporary failure is only logged, and not retried immediately."""
    home.simulator.plan(Plan(status=500), path=TOKEN, times=99)
    before = home.sign_in(expires_in=200)["tokens"]["access_token"]
    source = home.source()
    source.current()
    eventually(lambda: "could not be refreshed" in caplog.text)
    eventually(lambda: not helpers_of(os.getpid()))
    for _ in range(20):
        assert source.current().access_token == before
    assert len(home.outcomes()) == 1
    home.monotonic += 5.1
    source.current()
    assert home.simulator.wait_for(lambda: len(home.outcomes()) == 2)
    eventually(lambda: not helpers_of(os.getpid()))


@pytest.mark.parametrize(
    ("days", "count"), [pytest.param(8.1, 1, id="older-than-8-days"), pytest.param(7.9, 0, id="younger-than-8-days")]
)
def test_age_decides_without_an_expiry(home: Home, days: float, count: int) -> None:
    """An access token without an expiry is refreshed when it is 8 days old, and used in the meantime."""
    content = home.simulator.credential()
    content["tokens"]["access_token"] = "opaque"
    home.write(content)
    source = home.source(clock=lambda: time.time() + days * 86400)
    assert source.current().access_token == "opaque"
    if count:
        eventually(lambda: source.current().access_token != "opaque")
    assert len(home.outcomes()) == count


def test_replacement_refreshes_what_upstream_rejected(home: Home) -> None:
    """After a 401 the token is refreshed regardless of its expiry, once for all rejected requests."""
    home.sign_in()
    source = home.source()
    rejected = source.current()
    replacements = in_threads(lambda: source.replacement(rejected, "token_invalidated"))
    assert home.outcomes() == ["rotated"]
    assert home.simulator.refreshes[0].reason == "unauthorized_recovery"
    assert {credential.access_token for credential in replacements} == {home.access_token()} != {rejected.access_token}


def test_replacement_uses_a_changed_file(home: Home) -> None:
    """After a 401, a token that another program has written to the file is used without a refresh."""
    home.sign_in()
    source = home.source()
    rejected = source.current()
    home.sign_in(account="acct-other")
    assert source.replacement(rejected).account_id == "acct-other"
    assert home.outcomes() == []


def test_new_tokens_are_used_whatever_our_clock_says(home: Home) -> None:
    """With a clock that is ahead, or very short-lived tokens, not every request refreshes them."""
    home.simulator.token_lifetime = -10
    home.sign_in(expires_in=-1)
    source = home.source()
    assert {source.current().access_token for _ in range(20)} == {home.access_token()}
    assert home.outcomes() == ["rotated"]


def test_the_file_afterwards(home: Home) -> None:
    """A refresh keeps unknown members at every level, and Codex's layout, mode and owner."""
    content = home.simulator.credential(expires_in=-1)
    content["tokens"]["future"] = {"deep": [1, None, "ü"]}
    content["future"] = content["agent_identity"] = {"x": {"y": 1.5}}
    home.write(content)
    home.path.chmod(0o640)
    os.chown(home.path, 1234, 2345)
    home.source().current()
    after = home.content()
    changed = {name: after["tokens"].pop(name) for name in ("id_token", "access_token", "refresh_token")}
    assert all(changed[name] != content["tokens"].pop(name) for name in ("access_token", "refresh_token"))
    content["tokens"].pop("id_token")
    assert after.pop("last_refresh") > content.pop("last_refresh")
    assert after == content
    text = home.path.read_text()
    assert text.startswith('{\n  "auth_mode": "chatgpt",\n  "OPENAI_API_KEY": null,\n  "tokens": {\n    "id_token"')
    status = home.path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, 1234, 2345)
    locks = [home.folder / "auth.lock", home.folder / "auth.json.lock"]
    assert [lock.stat().st_uid for lock in locks] == [1234, 1234]
    assert sorted(home.folder.iterdir()) == sorted([home.path, *locks])


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("omitted", ["id_token", "access_token", "refresh_token"])
def test_omitted_token_is_kept(home: Home, omitted: str) -> None:
    """Each token is optional in the response; a missing one keeps its value."""
    before = home.sign_in(expires_in=-1)["tokens"]
    home.simulator.plan(Plan(omit=(omitted,)), path=TOKEN)
    home.source().current()
    after = home.content()["tokens"]
    same = [name for name in ("id_token", "access_token", "refresh_token") if after[name] == before[name]]
    assert same == [omitted]


def test_symbolic_link_is_kept(home: Home, tmp_path: Path) -> None:
    """The target of a symbolic link is replaced, and its lock is created beside it."""
    home.sign_in(expires_in=-1)
    folder = tmp_path / "linked"
    folder.mkdir()
    link = folder / "auth.json"
    link.symlink_to(home.path)
    inode = home.path.stat().st_ino
    assert home.source(path=link).current().access_token == home.access_token()
    assert link.is_symlink()
    assert home.path.stat().st_ino != inode
    assert [path.name for path in folder.iterdir() if path != link] == ["auth.lock"]
    assert sorted(path.name for path in home.folder.iterdir()) == ["auth.json", "auth.json.lock"]


def test_bind_mounted_file_is_written_in_place(home: Home, tmp_path: Path, mount: Callable[..., None]) -> None:
    """A bind-mounted file cannot be replaced by a rename: its content changes and its inode stays."""
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(home.simulator.credential(expires_in=-1)))
    home.path.touch()
    mount("--bind", outside, home.path)
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        os.replace(tmp_path / "outside.json", home.path)
    inode = outside.stat().st_ino
    credential = home.source().current()
    assert json.loads(outside.read_bytes())["tokens"]["access_token"] == credential.access_token
    assert outside.stat().st_ino == inode
    assert outside.read_bytes().endswith(b"}")
    assert home.remains() == []


def test_folder_that_cannot_be_written(home: Home, tmp_path: Path, mount: Callable[..., None]) -> None:
    """If only the file is writable, it is written in place, with the locks in the state directory."""
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(home.simulator.credential(expires_in=-1)))
    home.path.touch()
    mount("--bind", home.folder, home.folder)
    mount("--bind", outside, home.path)
    mount("-o", "remount,bind,ro", home.folder)
    assert home.source().current().access_token == home.access_token()
    assert sorted(path.name for path in home.state_path.iterdir()) == ["auth.json.lock", "auth.lock"]
    assert stat.S_IMODE(home.state_path.stat().st_mode) == 0o700
    assert list(home.folder.iterdir()) == [home.path]


def test_file_that_cannot_be_written(home: Home, mount: Callable[..., None]) -> None:
    """If nothing is writable, the refresh token is not used up, and the error names the cause."""
    before = home.sign_in(expires_in=-1)
    mount("--bind", home.folder, home.folder)
    mount("-o", "remount,bind,ro", home.folder)
    with pytest.raises(CredentialRejected, match="not allowed to write"):
        home.source().current()
    assert home.outcomes() == []
    assert home.content() == before


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("by_itself", [False, True], ids=["folder", "mounted-by-itself"])
def test_full_disk_is_detected_before_the_refresh(
    home: Home, tmp_path: Path, mount: Callable[..., None], by_itself: bool
) -> None:
    """On a full disk the refresh token is not used up; once there is space again, it is refreshed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=128k", "none", disk)
    path = disk / "auth.json"
    path.write_text(json.dumps(home.simulator.credential(expires_in=-1)))
    before = path.read_bytes()
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    if by_itself:
        home.path.touch()
        mount("--bind", path, home.path)
    shown = home.path if by_itself else path
    with pytest.raises(CredentialUnavailable, match="disk space"):
        home.source(path=shown).current()
    assert home.outcomes() == []
    assert path.read_bytes() == before
    filler.unlink()
    home.source(path=shown).current()
    assert home.outcomes() == ["rotated"]
    assert home.remains() == []


PERMANENT = [
    pytest.param(Plan(status=400, error=("refresh_token_expired", "m")), "has expired", id="expired"),
    pytest.param(Plan(status=401, error=("refresh_token_reused", "m")), "already used", id="reused"),
    pytest.param(Plan(status=500, error=("refresh_token_invalidated", "m")), "revoked", id="invalidated-with-500"),
    pytest.param(Plan(status=401, body=b"<html>"), "refused", id="any-401"),
    pytest.param(Plan(status=401, json={"error": {"code": "X" * 99}}), "refused", id="401-with-odd-code"),
    pytest.param(Plan(status=400, json={"error": "invalid_grant"}), "refused", id="invalid-grant"),
    pytest.param(Plan(status=403, json={"code": "REFRESH_TOKEN_REUSED"}), "already used", id="top-level-code"),
]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("plan", "reason"), PERMANENT)
def test_permanent_refusal_is_stored(home: Home, plan: Plan, reason: str) -> None:
    """A permanently refused token is presented once by all processes together, until the owner signs in again."""
    home.sign_in(expires_in=-1)
    home.simulator.plan(plan, path=TOKEN)
    for source in (home.source(), home.source()):
        for _ in range(2):
            with pytest.raises(CredentialRejected, match=f"{reason}.*codex login"):
                source.current()
    assert home.outcomes() == ["refused"]
    home.sign_in(expires_in=-1)
    for used in (source, home.source()):
        assert used.current().access_token == home.access_token()
    assert home.outcomes() == ["refused", "rotated"]


@pytest.mark.usefixtures("in_process")
def test_permanent_refusal_keeps_a_valid_token_in_use(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal in the token's last minutes is logged once; the token is used until it expires."""
    now = [time.time()]
    home.sign_in(expires_in=200)
    home.simulator.plan(Plan(status=401), path=TOKEN)
    source = home.source(clock=lambda: now[0])
    source.current()
    eventually(lambda: "permanently refused" in caplog.text)
    assert source.current().access_token == home.access_token()
    now[0] += 260
    with pytest.raises(CredentialRejected):
        source.current()
    assert caplog.text.count("permanently refused") == 1
    assert home.outcomes() == ["refused"]


def test_refusal_is_per_endpoint(home: Home) -> None:
    """After a wrong ``auth_base_url`` is fixed, the owner need not sign in again."""
    home.sign_in(expires_in=-1)
    with Simulator() as wrong, pytest.raises(CredentialRejected):
        home.source(refresher=home.refresher(auth_base_url=wrong.auth_base_url)).current()
    assert home.source().current().access_token == home.access_token()


def test_no_refresh_token(home: Home) -> None:
    """Without a refresh token the access token is used until it expires."""
    content = home.simulator.credential(expires_in=100)
    content["tokens"]["refresh_token"] = ""
    home.write(content)
    assert home.source().current().access_token == home.access_token()
    with pytest.raises(CredentialRejected, match="codex login"):
        home.source(clock=lambda: time.time() + 101).current()


TRANSIENT = [
    pytest.param(Plan(status=500), id="500"),
    pytest.param(Plan(status=429, error=("rate_limited", "m")), id="429"),
    pytest.param(Plan(status=403, body=b"<html>Cloudflare"), id="403"),
    pytest.param(Plan(status=400, error=("invalid_request", "m")), id="400"),
    pytest.param(Plan(status=307, fields=[("Location", "http://127.0.0.1:1/")]), id="redirect"),
    pytest.param(Plan(status=200, body=b"<html>"), id="not-json"),
    pytest.param(Plan(status=200, body=b"[]"), id="not-an-object"),
    pytest.param(Plan(status=200, json={}), id="no-tokens"),
    pytest.param(Plan(status=200, json={"access_token": "a\nb"}), id="not-a-token"),
    pytest.param(Plan(status=200, body=b" " * 300_000), id="too-large"),
    pytest.param(Plan(cut_at="rotation"), id="cut"),
    pytest.param(Plan(status_line_garbage=True, status=200), id="not-http"),
]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("plan", TRANSIENT)
def test_backoff_after_a_temporary_failure(home: Home, plan: Plan) -> None:
    """After a temporary failure, requests get a Retry-After, and the endpoint is not contacted until then."""
    before = home.sign_in(expires_in=-1)
    home.simulator.plan(plan, path=TOKEN)
    source = home.source()
    for _ in range(3):
        with pytest.raises(CredentialUnavailable) as caught:
            source.current()
        assert caught.value.retry_after_seconds == 5
    assert len(home.simulator.seen(TOKEN)) == 1
    assert home.content() == before
    home.monotonic += 5
    assert source.current().access_token == home.access_token()


@pytest.mark.usefixtures("in_process")
def test_backoff_grows(home: Home) -> None:
    """The backoff grows to one minute while the endpoint is down; a new file resets it."""
    home.sign_in(expires_in=-1)
    home.simulator.plan(Plan(status=500), path=TOKEN, times=99)
    source = home.source()
    rests = []
    for _ in range(6):
        with pytest.raises(CredentialUnavailable) as caught:
            source.current()
        rests.append(caught.value.retry_after_seconds)
        home.monotonic += float(caught.value.retry_after_seconds or 0)
    assert rests == [5, 10, 20, 40, 60, 60]
    with pytest.raises(CredentialUnavailable):
        source.current()
    home.sign_in(expires_in=-1)
    with pytest.raises(CredentialUnavailable) as caught:
        source.current()
    assert caught.value.retry_after_seconds == 5


def test_unreachable_endpoint(home: Home) -> None:
    """An unreachable endpoint is a temporary failure."""
    home.sign_in(expires_in=-1)
    with pytest.raises(CredentialUnavailable):
        home.source(refresher=home.refresher(auth_base_url="http://127.0.0.1:1")).current()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("padding", [0, 100, 16_384, 50_000])
@pytest.mark.parametrize("in_place", [False, True], ids=["replaced", "in-place"])
def test_other_tokens_written_during_the_refresh_are_kept(
    home: Home, tmp_path: Path, mount: Callable[..., None], in_place: bool, padding: int
) -> None:
    """Tokens that a Codex without locks has written during the refresh are kept and used."""
    gate = home.simulator.gate().at("rotated")
    home.simulator.plan(Plan(gate=gate), path=TOKEN)
    home.sign_in(expires_in=-1)
    if in_place:
        home.path.rename(tmp_path / "outside.json")
        home.path.touch()
        mount("--bind", tmp_path / "outside.json", home.path)
    got: list[str | None] = []
    source = home.source()
    asking = threading.Thread(target=lambda: got.append(source.current().account_id))
    asking.start()
    assert gate.reached.wait(30)
    newer = json.dumps({**home.simulator.credential(account="acct-newer"), "padding": "x" * padding})
    if in_place:
        home.path.write_text(newer)
    else:
        home.write(newer)
    gate.release()
    asking.join()
    assert got == ["acct-newer"]
    assert home.path.read_text() == newer


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("change", "is_there"),
    [
        pytest.param(lambda home: home.path.unlink(), False, id="signed-out"),
        pytest.param(lambda home: home.path.write_text("{"), True, id="broken"),
        pytest.param(lambda home: home.write({**home.content(), "more": 1}), True, id="other-field"),
    ],
)
def test_file_changes_during_the_refresh(home: Home, change: Callable[[Home], object], is_there: bool) -> None:
    """A sign-out during a refresh is kept; a file left broken is repaired; other changes are kept."""
    gate = home.simulator.gate().at("rotated")
    home.simulator.plan(Plan(gate=gate), path=TOKEN)
    before = home.sign_in(expires_in=-1)["tokens"]["access_token"]
    got: list[object] = []
    source = home.source()

    def ask() -> None:
        try:
            got.append(source.current().access_token)
        except CredentialUnavailable as exc:
            got.append(exc)

    asking = threading.Thread(target=ask)
    asking.start()
    assert gate.reached.wait(30)
    change(home)
    expected = "more" in (home.content() if home.path.exists() and home.path.stat().st_size > 1 else {})
    gate.release()
    asking.join()
    assert home.path.exists() is is_there
    if is_there:
        assert got == [home.access_token()] != [before]
        assert ("more" in home.content()) is expected
    else:
        assert isinstance(got[0], CredentialUnavailable)


def test_environment_of_codex(home: Home) -> None:
    """Codex's own variables for the endpoint and the client are respected."""
    content = home.simulator.credential(expires_in=-1)
    del content["tokens"]["oauth_provenance"]
    home.write(content)
    environ = {
        "CODEX_REFRESH_TOKEN_URL_OVERRIDE": f"{home.simulator.url}{TOKEN}",
        "CODEX_APP_SERVER_LOGIN_CLIENT_ID": "another-client",
    }
    home.source(refresher=home.refresher(auth_base_url="http://127.0.0.1:1", environ=environ)).current()
    assert [refresh.client_id for refresh in home.simulator.refreshes] == ["another-client"]


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Simulator, Path]]:
    """An issuer over TLS, and the file of its certificate authority."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with Simulator(ssl_context=context) as simulator:
        yield simulator, tmp_path / "authority.pem"


def test_tls_is_verified(home: Home, secure: tuple[Simulator, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the configured certificate is trusted; nothing is sent to an unverified issuer."""
    simulator, authority = secure
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    home.write(simulator.credential(expires_in=-1))
    with pytest.raises(CredentialUnavailable):
        home.source(refresher=home.refresher(auth_base_url=simulator.url)).current()
    assert simulator.requests == []
    trust = Certificate.model_construct(store="none", certificate_path=(authority,))
    assert home.source(refresher=home.refresher(auth_base_url=simulator.url, trust=trust)).current()
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]


def test_detour_and_no_other_proxy(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The endpoint is reached through the detour; environment proxies and ``.netrc`` are ignored."""
    (Path(os.environ["HOME"]) / ".netrc").write_text("default login a password b\n")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    home.sign_in(expires_in=-1)
    home.source().current()
    assert "authorization" not in {name.lower() for name, _ in home.simulator.requests[0].fields}
    home.sign_in(expires_in=-1)
    with ForwardProxy(Socks5).running() as proxy:
        proxy_url = f"socks5h://scout:p%40ss%3Aword@127.0.0.1:{proxy.port}"
        home.source(refresher=home.refresher(proxy_url=proxy_url)).current()
        assert proxy.targets == [home.simulator.url.removeprefix("http://")]
    assert home.outcomes() == ["rotated", "rotated"]


def test_no_secret_leaves_the_file(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """No token and no password appears in the log, the state, or the visible data of the refresh process."""
    caplog.set_level(logging.DEBUG)
    gate = home.simulator.gate().at("rotation")
    home.simulator.plan(Plan(gate=gate), path=TOKEN)
    home.simulator.plan(Plan(status=401, json={"error": "refused", "message": "rt_secret"}), path=TOKEN)
    secrets = [*map(str, home.sign_in(expires_in=-1)["tokens"].values())][:3]
    proxy_url = "socks5h://scout:p%40ss%3Aword@127.0.0.1:{port}"
    with ForwardProxy(Socks5).running() as proxy:
        source = home.source(refresher=home.refresher(proxy_url=proxy_url.format(port=proxy.port)))
        asking = threading.Thread(target=source.current)
        asking.start()
        assert gate.reached.wait(30)
        folder = Path(f"/proc/{helper_of(os.getpid())}")
        seen = folder.joinpath("cmdline").read_bytes() + folder.joinpath("environ").read_bytes()
        added = set(folder.joinpath("environ").read_text().split("\0")) - {f"{k}={v}" for k, v in os.environ.items()}
        gate.release()
        asking.join()
        secrets += [*map(str, home.content()["tokens"].values())][:3]
        with pytest.raises(CredentialRejected) as caught:
            source.replacement(source.current(), "token_expired")
    assert [name.partition("=")[0] for name in added if name] == ["PYTHONPATH"]
    state = b"".join(path.read_bytes() for path in home.state_path.iterdir())
    shown = caplog.text + seen.decode() + state.decode() + repr(source.__dict__) + str(vars(caught.value))
    assert not [secret for secret in [*secrets, "p%40ss", "p@ss", "rt_secret"] if secret in shown]
    assert hashlib.sha256(secrets[-1].encode()).hexdigest() in {
        r.refresh_token_sha256 for r in home.simulator.refreshes
    }


def test_signals_do_not_stop_the_refreshing_process(home: Home) -> None:
    """SIGINT, SIGHUP and SIGTERM do not interrupt the refresh process."""
    gate = home.simulator.gate().at("rotated")
    home.simulator.plan(Plan(gate=gate), path=TOKEN)
    home.sign_in(expires_in=-1)
    source = home.source()
    asking = threading.Thread(target=source.current)
    asking.start()
    assert gate.reached.wait(30)
    helper = helper_of(os.getpid())
    assert os.getsid(helper) == helper
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(helper, number)
    gate.release()
    asking.join()
    assert home.outcomes() == ["rotated"]
    assert source.current().access_token == home.access_token()


def test_lock_that_is_never_released(home: Home) -> None:
    """If another program holds a lock, no token is presented, and the request gets a Retry-After."""
    home.sign_in(expires_in=-1)
    timeouts = Timeouts(lock_seconds=0.2, exchange_seconds=TIMEOUTS.exchange_seconds, adoption_seconds=0)
    source = home.source(refresher=home.refresher(timeouts=timeouts))
    with held(home.folder / "auth.json.lock"), pytest.raises(CredentialUnavailable, match="Another program"):
        source.current()
    assert home.outcomes() == []


def test_embedded_interpreter_elsewhere(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A refresh works in a server that embeds Python and has changed its directory."""
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    monkeypatch.chdir(tmp_path)
    home.sign_in(expires_in=-1)
    assert home.source().current().access_token == home.access_token()


FORK = """
import os, sys
from pathlib import Path
from ocm_wsgi.credentials import CredentialSource, Refresher
source = CredentialSource(Path(sys.argv[1]), state_path=Path("state"), refresher=Refresher())
with source._file._lock:
    child = os.fork()
    if child == 0:
        os._exit(source.current().access_token != "sk-1")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_source_after_a_fork(home: Home) -> None:
    """A child is not blocked by a lock that was held during the fork."""
    home.write({"OPENAI_API_KEY": "sk-1"})
    subprocess.run([sys.executable, "-c", FORK, home.path], check=True, timeout=30, cwd=REPOSITORY)
