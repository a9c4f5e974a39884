"""The owner's credential: what it is, how long it lasts, whether the service can read and renew it."""

from __future__ import annotations

import os
import pwd
import stat
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import Config
from ocm_wsgi.credentials import Mode, Refresher
from ocm_wsgi.credentials.auth_file import Document
from ocm_wsgi.credentials.auth_file_reader import FileGone, FileProblem, FileUnreadable, read_whole
from ocm_wsgi.credentials.auth_file_writer import is_mount_point
from ocm_wsgi.credentials.sign_in import holder_of
from ocm_wsgi.errors import CredentialError
from ocm_wsgi.oauth.refresh import REFUSALS

_SUBJECT = Subject("credential")
_LOGIN = "flask ocm login"
_DOCS = "docs/credentials.md"


def findings(config: Config, environ: Mapping[str, str], *, now: float | None = None) -> Iterator[Finding]:
    """Look at the file and what it holds."""
    path = config.credential_path
    try:
        document = read_whole(path).document
    except FileGone as exc:
        yield _SUBJECT.problem("missing", f"There is no credential at {path}: {exc}.", _LOGIN)
        return
    except FileUnreadable as exc:
        yield _SUBJECT.problem("unreadable", f"{path} cannot be read: {exc}.", f"chown {_user()} {path}")
        return
    except FileProblem as exc:
        yield _SUBJECT.problem("broken", f"{path} makes no sense: {exc}.", _LOGIN)
        return
    mode = yield from _content(document, config, environ, time.time() if now is None else now)
    yield from _permissions(path)
    if mode is Mode.CHATGPT:
        yield from _renewable(path)


def _content(
    document: Document, config: Config, environ: Mapping[str, str], now: float
) -> Generator[Finding, None, Mode | None]:
    try:
        credential = document.credential()
    except CredentialError as exc:
        yield _SUBJECT.problem("unusable", exc.message, _LOGIN)
        return None
    yield _SUBJECT.ok("holder", f"{config.credential_path} holds {holder_of(document)}.")
    if credential.mode is Mode.API_KEY:
        return credential.mode
    if credential.account_id is None:
        yield _SUBJECT.warning("no_account", "The credential does not say which ChatGPT account it is of.", _LOGIN)
    yield from _expiry(credential.expires_at, now)
    yield from _refusal(document, config, environ)
    return credential.mode


def _expiry(expires_at: float | None, now: float) -> Iterator[Finding]:
    if expires_at is None:
        yield _SUBJECT.note("expiry", "The access token does not say its end; it is renewed every eight days.")
    elif expires_at <= now:
        yield _SUBJECT.note("expiry", "The access token has ended; the next request renews it.")
    else:
        yield _SUBJECT.ok("expiry", f"The access token lasts for {_duration(expires_at - now)}, and is then renewed.")


def _refusal(document: Document, config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    if document.refresh_token is None:
        yield _SUBJECT.problem("no_refresh_token", "The sign-in cannot be renewed: it has no refresh token.", _LOGIN)
        return
    refresher = Refresher(auth_base_url=config.auth_base_url, environ=environ)
    try:
        code = refresher.refusal(config.credential_path, state_path=config.state_path, document=document)
    except CredentialError as exc:
        yield _SUBJECT.problem("issuer", exc.message, _LOGIN)
        return
    if code is not None:
        reason = REFUSALS.get(code, "OpenAI refused to renew it")
        yield _SUBJECT.problem("refused", f"The sign-in has ended: {reason}.", _LOGIN)


def _permissions(path: Path) -> Iterator[Finding]:
    status = os.stat(path)
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        yield _SUBJECT.warning("open", f"Others on this machine may use {path} (mode {mode:04o}).", f"chmod 600 {path}")
    if status.st_uid != os.geteuid():
        yield _SUBJECT.note(
            "owner",
            f"{path} belongs to {_user(status.st_uid)}, and this check runs as {_user()}; what it says of permissions "
            "holds for the latter.",
            "Run it as the user of the service.",
        )


def _renewable(path: Path) -> Iterator[Finding]:
    target = Path(os.path.realpath(path))
    if is_mount_point(target):
        yield _SUBJECT.warning(
            "mounted",
            f"{target} is mounted by itself: a power cut in the wrong instant can damage it, and Codex outside does "
            "not see its locks.",
            f"Mount its folder instead ({_DOCS}).",
        )
    elif os.access(target.parent, os.W_OK | os.X_OK):
        yield _SUBJECT.ok("writable", "Its folder can be written: renewed tokens are put there in one step.")
        return
    if not os.access(target, os.W_OK):
        yield _SUBJECT.problem(
            "unwritable",
            f"Renewed tokens cannot be written to {target}: the service stops working when the access token ends.",
            f"chown -R {_user()} {target.parent}",
        )
    elif not is_mount_point(target):
        yield _SUBJECT.warning(
            "folder_unwritable",
            f"The folder {target.parent} cannot be written, only the file: the locks do not keep Codex out.",
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
