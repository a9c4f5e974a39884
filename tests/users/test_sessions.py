"""The cookies of the dashboard, and the secret that signs them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocm_wsgi.config import UserConfig
from ocm_wsgi.errors import AuthenticationFailed, StateError
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.directory import UserDirectory
from ocm_wsgi.users.sessions import LIFETIME_SECONDS, Sessions
from ocm_wsgi.users.user import User

ANN = User("ann")


@pytest.fixture
def make(state_path: Path, database: Database, configured: Callable[..., UserConfig]) -> Callable[..., Sessions]:
    """Return a function that makes the sessions of another process."""
    users = UserDirectory([configured("ann"), configured("bob")], database)
    return lambda **options: Sessions(state_path, users, database, **options)


@pytest.fixture
def sessions(make: Callable[..., Sessions]) -> Sessions:
    return make()


def test_end(sessions: Sessions, make: Callable[..., Sessions]) -> None:
    """A session that has ended is over in every process, and no other session is."""
    cookies = [sessions.begin(ANN, "token-of-ann") for _ in range(2)]
    make().end(cookies[0])
    with pytest.raises(AuthenticationFailed, match="signed out"):
        sessions.user(cookies[0])
    assert sessions.user(cookies[1]).name == "ann"
    sessions.end(cookies[0])
    sessions.end("no cookie")
    sessions.end(sessions.visit())


def test_ended_sessions_are_forgotten(make: Callable[..., Sessions], database: Database) -> None:
    """What is stored of a session goes when its cookie has expired anyway."""
    began = time.time()
    sessions = make(clock=lambda: began)
    sessions.end(sessions.begin(ANN, "token-of-ann"))
    later = make(clock=lambda: began + LIFETIME_SECONDS + 1)
    later.end(later.begin(ANN, "token-of-ann"))
    with database.read() as connection:
        rows = connection.exec_driver_sql("SELECT value FROM meta WHERE key LIKE 'session_ended:%'").all()
    assert [int(row[0]) for row in rows] == [int(began + LIFETIME_SECONDS + 1)]


def test_known_browser(sessions: Sessions) -> None:
    """The cookie names the user, is no session, and cannot be replaced with the cookie of one."""
    cookie = sessions.known_browser(ANN)
    assert sessions.known_user(cookie) == "ann"
    with pytest.raises(AuthenticationFailed):
        sessions.user(cookie)
    assert not sessions.is_ours(cookie)
    for other in ("", "x", cookie + "x", sessions.begin(ANN, "token-of-ann"), sessions.visit()):
        assert sessions.known_user(other) == ""


def test_secret_is_synced(sessions: Sessions, state_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is on disk before it has its name, so that a power failure leaves no empty one."""
    sizes: dict[str, int] = {}
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        sizes[os.readlink(f"/proc/self/fd/{descriptor}")] = os.fstat(descriptor).st_size
        sync(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("os.link", lambda source, target: sizes.update({str(target): sizes[str(source)]}))
    with pytest.raises(StateError):
        sessions.visit()
    assert sizes[str(state_path / "cookie.key")] == 32
    assert str(state_path) in sizes


@pytest.mark.parametrize("content", [b"", b"short", bytes(31)])
def test_secret_that_is_too_short(sessions: Sessions, state_path: Path, content: bytes) -> None:
    """With an empty secret anyone could forge cookies; such a file is replaced, by one of several threads."""
    state_path.mkdir()
    path = state_path / "cookie.key"
    path.write_bytes(content)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: sessions.visit(), range(8)))
    assert len(path.read_bytes()) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert sessions.is_ours(sessions.visit())
    assert [each.name for each in state_path.iterdir() if each.name.startswith("cookie")] == ["cookie.key"]
