"""The owner's credential: its kind and expiry, and whether the service can read and refresh it."""

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
from ocm_wsgi.credentials.auth_file_reader import FileGone, FileProblem, FileUnreadable, read_with_retries
from ocm_wsgi.credentials.auth_file_writer import is_mount_point
from ocm_wsgi.credentials.sign_in import owner_of
from ocm_wsgi.errors import CredentialError
from ocm_wsgi.oauth.refresh import REFUSALS

_SUBJECT = Subject("credential")
_LOGIN = "flask ocm login"
_DOCS = "docs/credentials.md"


def findings(config: Config, environ: Mapping[str, str], *, now: float | None = None) -> Iterator[Finding]:
    """Check the file and its content."""
    path = config.credential_path
    try:
        document = read_with_retries(path).document
    except FileGone as exc:
        yield _SUBJECT.problem("missing", f"There is no credential at {path}: {exc}.", _LOGIN)
        return
    except FileUnreadable as exc:
        yield _SUBJECT.problem("unreadable", f"{path} cannot be read: {exc}.", f"chown {_user()} {path}")
        return
    except FileProblem as exc:
        yield _SUBJECT.problem("broken", f"{path} is malformed: {exc}.", _LOGIN)
        return
    mode = yield from _content(document, config, environ, time.time() if now is None else now)
    yield from _permissions(path)
    if mode is Mode.CHATGPT:
        yield from _writable(path)


def _content(
    document: Document, config: Config, environ: Mapping[str, str], now: float
) -> Generator[Finding, None, Mode | None]:
    try:
        credential = document.credential()
    except CredentialError as exc:
        yield _SUBJECT.problem("unusable", exc.message, _LOGIN)
        return None
    yield _SUBJECT.ok("holder", f"{config.credential_path} holds {owner_of(document)}.")
    if credential.mode is Mode.API_KEY:
        return credential.mode
    if credential.account_id is None:
        yield _SUBJECT.warning("no_account", "The credential names no ChatGPT account.", _LOGIN)
    yield from _expiry(credential.expires_at, now)
    yield from _refusal(document, config, environ)
    return credential.mode


def _expiry(expires_at: float | None, now: float) -> Iterator[Finding]:
    if expires_at is None:
        yield _SUBJECT.note("expiry", "The access token has no expiry claim; it is refreshed every eight days.")
    elif expires_at <= now:
        yield _SUBJECT.note("expiry", "The access token has expired; the next request refreshes it.")
    else:
        yield _SUBJECT.ok("expiry", f"The access token expires in {_duration(expires_at - now)} and is then refreshed.")


def _refusal(document: Document, config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    if document.refresh_token is None:
        yield _SUBJECT.problem(
            "no_refresh_token", "The access token cannot be refreshed: the credential has no refresh token.", _LOGIN
        )
        return
    refresher = Refresher(auth_base_url=config.auth_base_url, environ=environ)
    try:
        code = refresher.refusal(config.credential_path, state_path=config.state_path, document=document)
    except CredentialError as exc:
        yield _SUBJECT.problem("issuer", exc.message, _LOGIN)
        return
    if code is not None:
        reason = REFUSALS.get(code, "OpenAI refused to refresh it")
        yield _SUBJECT.problem("refused", f"The sign-in has ended: {reason}.", _LOGIN)


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
