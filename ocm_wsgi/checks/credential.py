"""The owner's credential: its kind and expiry, and whether the service can read and refresh it."""

from __future__ import annotations

import os
import pwd
import stat
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import Config
from ocm_wsgi.credentials import Mode, Refresher
from ocm_wsgi.credentials.auth_file import Document
from ocm_wsgi.credentials.auth_file_reader import FileGone, FileProblem, FileUnreadable, read_with_retries
from ocm_wsgi.credentials.auth_file_writer import is_mount_point
from ocm_wsgi.credentials.sign_in import owner_of
from ocm_wsgi.errors import CredentialError
from ocm_wsgi.oauth.refresh import REFUSALS

_SUBJECT = Subject("credential")
_LOGIN = "ocm login"
_DOCS = "docs/credentials.md"


@dataclass(frozen=True)
class _Checked:
    """The credential that is checked.

    :ivar login: the command that signs it in.
    """

    config: Config
    path: Path
    login: str
    environ: Mapping[str, str]
    now: float


def findings(config: Config, environ: Mapping[str, str], *, now: float | None = None) -> Iterator[Finding]:
    """Check the files of all accounts and their content."""
    now = time.time() if now is None else now
    for account in config.accounts:
        login = _LOGIN if len(config.accounts) == 1 else f"{_LOGIN} --credential {account.tag}"
        yield from _findings(_Checked(config, account.credential_path, login, environ, now))


def _findings(checked: _Checked) -> Iterator[Finding]:
    path = checked.path
    try:
        document = read_with_retries(path).document
    except FileGone as exc:
        yield _SUBJECT.problem("missing", f"There is no credential at {path}: {exc}.", checked.login)
        return
    except FileUnreadable as exc:
        yield _SUBJECT.problem("unreadable", f"{path} cannot be read: {exc}.", f"chown {_user()} {path}")
        return
    except FileProblem as exc:
        yield _SUBJECT.problem("broken", f"{path} is malformed: {exc}.", checked.login)
        return
    mode = yield from _content(document, checked)
    yield from _permissions(path)
    if mode is Mode.CHATGPT:
        yield from _writable(path)


def _content(document: Document, checked: _Checked) -> Generator[Finding, None, Mode | None]:
    try:
        credential = document.credential()
    except CredentialError as exc:
        yield _SUBJECT.problem("unusable", exc.message, checked.login)
        return None
    yield _SUBJECT.ok("holder", f"{checked.path} holds {owner_of(document)}.")
    if credential.mode is Mode.API_KEY:
        return credential.mode
    if credential.account_id is None:
        yield _SUBJECT.warning("no_account", "The credential names no ChatGPT account.", checked.login)
    yield from _expiry(credential.expires_at, checked.now)
    yield from _refusal(document, checked)
    return credential.mode


def _expiry(expires_at: float | None, now: float) -> Iterator[Finding]:
    if expires_at is None:
        yield _SUBJECT.note("expiry", "The access token has no expiry claim; it is refreshed every eight days.")
    elif expires_at <= now:
        yield _SUBJECT.note("expiry", "The access token has expired; the next request refreshes it.")
    else:
        yield _SUBJECT.ok("expiry", f"The access token expires in {_duration(expires_at - now)} and is then refreshed.")


def _refusal(document: Document, checked: _Checked) -> Iterator[Finding]:
    if document.refresh_token is None:
        yield _SUBJECT.problem(
            "no_refresh_token",
            "The access token cannot be refreshed: the credential has no refresh token.",
            checked.login,
        )
        return
    refresher = Refresher(auth_base_url=checked.config.auth_base_url, environ=checked.environ)
    try:
        code = refresher.refusal(checked.path, state_path=checked.config.state_path, document=document)
    except CredentialError as exc:
        yield _SUBJECT.problem("issuer", exc.message, checked.login)
        return
    if code is not None:
        reason = REFUSALS.get(code, "OpenAI refused to refresh it")
        yield _SUBJECT.problem("refused", f"The sign-in has ended: {reason}.", checked.login)


def _permissions(path: Path) -> Iterator[Finding]:
    status = os.stat(path)
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        yield _SUBJECT.warning(
            "open", f"Other users of this machine can access {path} (mode {mode:04o}).", f"chmod 600 {path}"
        )
    if status.st_uid != os.geteuid():
        yield _SUBJECT.note(
            "owner",
            f"{path} belongs to {_user(status.st_uid)}, but this check runs as {_user()}, and its findings about "
            "permissions apply to that user.",
            "Run it as the service's user.",
        )


def _writable(path: Path) -> Iterator[Finding]:
    target = Path(os.path.realpath(path))
    if is_mount_point(target):
        yield _SUBJECT.warning(
            "mounted",
            f"{target} is mounted as a single file: a power failure at the wrong moment can damage it, and Codex "
            "outside does not see its locks.",
            f"Mount its folder instead ({_DOCS}).",
        )
    elif os.access(target.parent, os.W_OK | os.X_OK):
        yield _SUBJECT.ok(
            "writable", "Its folder is writable: the file is replaced atomically when tokens are refreshed."
        )
        return
    if not os.access(target, os.W_OK):
        yield _SUBJECT.problem(
            "unwritable",
            f"Refreshed tokens cannot be written to {target}: the service stops working when the access token expires.",
            f"chown -R {_user()} {target.parent}",
        )
    elif not is_mount_point(target):
        yield _SUBJECT.warning(
            "folder_unwritable",
            f"{target} is writable but its folder is not: locks cannot keep Codex from refreshing at the same time.",
            f"chown {_user()} {target.parent}",
        )


def _user(uid: int | None = None) -> str:
    uid = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _duration(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"
