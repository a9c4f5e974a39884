"""Signing the owner in and out: whose credential ``auth.json`` contains, storing a new one, removing it.

Independent of the command line, which talks to the user. The requests to the issuer are in ``oauth.authorization``.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocm_wsgi.config import AccountConfig, Config
from ocm_wsgi.credentials import Mode
from ocm_wsgi.credentials.auth_file import Document, format_time
from ocm_wsgi.credentials.auth_file_locks import LocksBusy, credential_locks
from ocm_wsgi.credentials.auth_file_reader import FileBroken, FileGone, FileProblem, read_with_retries
from ocm_wsgi.credentials.auth_file_writer import create, prepare
from ocm_wsgi.credentials.jwt_claims import PROFILE_CLAIM, auth_claims_of, claims_of
from ocm_wsgi.errors import CredentialError, LoginFailed
from ocm_wsgi.oauth.authorization import (
    DEVICE_CODE_SECONDS,
    AuthorizationCode,
    DeviceCode,
    IssuerClient,
    LoginPending,
    device_code_expired,
)
from ocm_wsgi.oauth.http_client import ConnectionSettings
from ocm_wsgi.oauth.refresh import CLIENT_ID, Provenance, TokenGrant, token_endpoint
from ocm_wsgi.tls import contexts

LOCK_TIMEOUT_SECONDS = 60.0
#: All top-level members that Codex 0.169 knows.
CODEX_FIELDS = frozenset(
    {
        "auth_mode",
        "OPENAI_API_KEY",
        "tokens",
        "last_refresh",
        "agent_identity",
        "personal_access_token",
        "bedrock_api_key",
        "bedrock_access_keys",
    }
)


@dataclass(frozen=True)
class CredentialOwner:
    """The owner of a credential.

    :ivar account_id: of ChatGPT; ``None`` with an API key.
    """

    mode: Mode
    account_id: str | None = None
    email: str | None = None
    plan_type: str | None = None

    def __str__(self) -> str:
        if self.mode is Mode.API_KEY:
            return "an API key"
        account = self.email or self.account_id or "an unnamed account"
        return f"{account} ({self.plan_type})" if self.plan_type else account


class OtherAccountSignedIn(Exception):
    """The file contains a working credential of another account."""

    def __init__(self, owner: CredentialOwner) -> None:
        super().__init__(str(owner))
        self.owner = owner


def issuer_client(
    config: Config, account: AccountConfig, environ: Mapping[str, str], *, provenance: Provenance | None = None
) -> IssuerClient:
    """Return the configured issuer, reached as the account is, or the one that issued tokens of this provenance.

    :raises CredentialRejected: such tokens would be sent in clear text.
    """
    proxy_url = account.proxy_url.get_secret_value() if account.proxy_url else None
    connection = ConnectionSettings(contexts.upstream_context(config.certificate), proxy_url)
    client_id = environ.get("CODEX_APP_SERVER_LOGIN_CLIENT_ID") or CLIENT_ID
    endpoint = token_endpoint(provenance or Provenance(), auth_base_url=config.auth_base_url, client_id=client_id)
    return IssuerClient(connection, endpoint.url.removesuffix("/oauth/token"), endpoint.client_id)


def wait_for_approval(
    issuer: IssuerClient,
    device: DeviceCode,
    *,
    pause: Callable[[float, float], None],
    monotonic: Callable[[], float] = time.monotonic,
) -> AuthorizationCode:
    """Wait until the owner has approved a device sign-in; retry on network failures.

    :param pause: called to wait, with the seconds to wait and the seconds left in total.
    :raises LoginFailed: it was declined, or 15 minutes have passed.
    """
    deadline = monotonic() + DEVICE_CODE_SECONDS
    while (left_seconds := deadline - monotonic()) > 0:
        try:
            return issuer.poll(device)
        except LoginPending:
            pass
        except LoginFailed as exc:
            if exc.code not in ("unreachable", "too_many"):
                raise
        pause(min(device.interval_seconds, left_seconds), left_seconds)
    raise device_code_expired()


def document_from(grant: TokenGrant, issuer: IssuerClient, *, now_ns: int) -> Document:
    """Return the ``auth.json`` of a new sign-in, with the members of Codex 0.169 in its order.

    The four members for other kinds of credential are omitted, as Codex omits them when they are empty.

    :raises LoginFailed: the tokens name no account.
    """
    account_id = auth_claims_of(grant.id_token).get("chatgpt_account_id")
    if not isinstance(account_id, str):
        raise LoginFailed(
            "OpenAI's response names no ChatGPT account. Sign in to one that has a Codex plan.",
            code="no_account",
        )
    tokens = {
        **grant.tokens(),
        "oauth_provenance": {"issuer": issuer.issuer, "client_id": issuer.client_id},
        "login_owner_id": secrets.token_urlsafe(32),
        "account_id": account_id,
    }
    return Document(
        {
            "auth_mode": Mode.CHATGPT.value,
            "OPENAI_API_KEY": None,
            "tokens": tokens,
            "last_refresh": format_time(now_ns),
        }
    )


def owner_of(document: Document) -> CredentialOwner | None:
    """Return the owner of a credential, or ``None`` if it is not usable."""
    try:
        credential = document.credential()
    except CredentialError:
        return None
    id_token = document.tokens.get("id_token") if credential.mode is Mode.CHATGPT else None
    return CredentialOwner(
        mode=credential.mode,
        account_id=credential.account_id,
        email=_email(claims_of(id_token if isinstance(id_token, str) else None)),
        plan_type=_printable(credential.plan_type),
    )


def current(path: Path) -> Document | None:
    """Return the content of the file, or ``None`` if there is no valid one.

    :raises LoginFailed: the file exists and cannot be read.
    """
    try:
        return read_with_retries(path).document
    except (FileGone, FileBroken):
        return None
    except FileProblem as exc:
        raise LoginFailed(f"{path} cannot be read: {exc}.", code="unreadable") from None


def store(document: Document, path: Path, *, state_path: Path, instead_of: CredentialOwner | None = None) -> None:
    """Write a new sign-in atomically, with mode 0600, while holding the locks that Codex and the service use.

    :param instead_of: the owner whose working credential may be replaced, besides the same account.
    :raises OtherAccountSignedIn: the file contains the working credential of another account.
    :raises LoginFailed: it cannot be written.
    """
    with _exclusive(path, state_path):
        existing = current(path)
        found = owner_of(existing) if existing is not None else None
        ours = owner_of(document)
        if found is not None and found != instead_of and found.account_id != (ours and ours.account_id):
            raise OtherAccountSignedIn(found)
        _write(Path(os.path.realpath(path)), document)


@dataclass(frozen=True)
class SignedOut:
    """The result of a sign-out.

    :ivar failure: why the tokens were not revoked; ``None`` if they were, or if there was nothing to revoke.
    """

    failure: LoginFailed | None


def sign_out(path: Path, *, state_path: Path, issuer_of: Callable[[Provenance], IssuerClient]) -> SignedOut:
    """Revoke the tokens if possible, and remove them from the file in any case.

    The file is removed, as by Codex, which treats a file without tokens as signed in; unless it contains members that
    Codex does not know.

    :raises LoginFailed: the file cannot be changed.
    """
    with _exclusive(path, state_path):
        document = current(path)
        failure = _revoked(document, issuer_of) if document is not None else None
        _empty(Path(os.path.realpath(path)), document)
    return SignedOut(failure)


def _email(claims: Mapping[str, Any]) -> str | None:
    profile = claims.get(PROFILE_CLAIM)
    candidates = (claims.get("email"), profile.get("email") if isinstance(profile, dict) else None)
    return next((email for email in map(_printable, candidates) if email), None)


def _printable(value: object) -> str | None:
    """Return a text that is safe to print on a terminal, or ``None``."""
    return value if isinstance(value, str) and value.isprintable() else None


@contextmanager
def _exclusive(path: Path, state_path: Path) -> Iterator[None]:
    """Create the credential's folder, hold the locks, and translate errors to :class:`LoginFailed`."""
    try:
        _make_folder(Path(os.path.realpath(path)).parent)
        with credential_locks(path, state_path=state_path, timeout_seconds=LOCK_TIMEOUT_SECONDS):
            yield
    except LocksBusy:
        raise LoginFailed(
            f"Another program has locked {path} for a minute; `fuser {path.parent}/auth.lock` shows which.", code="busy"
        ) from None
    except OSError as exc:
        raise LoginFailed(
            f"{exc.filename or path} cannot be written: {exc.strerror}. Run this as the user of the service.",
            code="unwritable",
        ) from None


def _make_folder(folder: Path) -> None:
    """Create missing folders, private to their owner: for root, the owner of the folder above."""
    if folder.exists():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        owner = os.stat(folder.parent)
        os.chown(folder, owner.st_uid, owner.st_gid)


def _write(target: Path, document: Document) -> None:
    if not target.exists():
        create(target, document.encoded())
        return
    # The new file gets the mode of the old one, which cannot be set if another user owns the file.
    with suppress(PermissionError):
        target.chmod(0o600)
    with prepare(target) as replacement:
        replacement.commit(document.encoded())


def _revoked(document: Document, issuer_of: Callable[[Provenance], IssuerClient]) -> LoginFailed | None:
    if document.refresh_token is None:
        return None
    try:
        issuer_of(document.provenance).revoke(document.refresh_token)
    except LoginFailed as exc:
        return exc
    except CredentialError as exc:
        return LoginFailed(exc.message, code="refused", detail=exc.detail)
    return None


def _empty(target: Path, document: Document | None) -> None:
    unknown = {} if document is None else {k: v for k, v in document.content.items() if k not in CODEX_FIELDS}
    if not unknown:
        try:
            target.unlink(missing_ok=True)
        except OSError:
            # The file is a mount point, or the folder is not ours: the content can be removed anyway.
            unknown = {}
        else:
            return
    with prepare(target) as replacement:
        replacement.commit(Document(unknown).encoded())
