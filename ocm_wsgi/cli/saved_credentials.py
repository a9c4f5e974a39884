"""The owner's sign-ins in a backup, by the tags of their accounts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ocm_wsgi.config import AccountConfig, Config
from ocm_wsgi.credentials import sign_in
from ocm_wsgi.credentials.auth_file import Document
from ocm_wsgi.errors import TransferFailed
from ocm_wsgi.transfer.restoration import Backup
from ocm_wsgi.transfer.sealing import unseal


def contents(config: Config) -> dict[str, Mapping[str, Any]]:
    """Return what the credential files of all accounts contain.

    :raises TransferFailed: an account is not signed in.
    :raises LoginFailed: a file cannot be read.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for account in config.accounts:
        document = sign_in.current(account.credential_path)
        if document is None:
            raise TransferFailed(f"There is no credential at {account.credential_path} to include.")
        found[account.tag] = document.content
    return found


def passphrase(file: Path | None, *, confirm: bool) -> str:
    """Read the passphrase from a file, or ask for it.

    :param confirm: whether to ask for it twice.
    """
    if file is not None:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text().partition("\n")[0]
        return text.rstrip("\r\n")
    if not sys.stdin.isatty():
        raise click.UsageError("The owner's sign-in is only saved encrypted: use --passphrase-file.")
    answer: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return answer


def unsealed(backup: Backup, passphrase_file: Path | None) -> dict[str, Document]:
    """Decrypt the credentials of a backup.

    :raises TransferFailed: it has none, or the passphrase is wrong.
    """
    if backup.content.credentials is None:
        raise TransferFailed(f"{backup.path} does not contain the owner's sign-in; restore it without that.")
    found = unseal(backup.content.credentials, passphrase(passphrase_file, confirm=False))
    return {tag: Document(content) for tag, content in found.items()}


def require_replaceable(documents: Mapping[str, Document], config: Config, *, force: bool) -> None:
    """Raise unless credentials may be stored.

    :param force: also in place of a working credential.
    :raises TransferFailed: that was refused.
    """
    for tag in documents:
        path = _account(config, tag).credential_path
        existing = sign_in.current(path)
        owner = sign_in.owner_of(existing) if existing is not None else None
        if owner is not None and not force:
            raise TransferFailed(f"{path} holds the working credential of {owner}. --force replaces it.")


def store(documents: Mapping[str, Document], config: Config, *, force: bool) -> None:
    """Write credentials to the files of their accounts.

    :raises LoginFailed: that failed. The credentials before it were written.
    """
    for tag, document in documents.items():
        path = _account(config, tag).credential_path
        existing = sign_in.current(path) if force else None
        replaced = sign_in.owner_of(existing) if existing is not None else None
        sign_in.store(document, path, state_path=config.state_path, instead_of=replaced)


def _account(config: Config, tag: str) -> AccountConfig:
    for account in config.accounts:
        if account.tag == tag:
            return account
    tags = ", ".join(account.tag for account in config.accounts)
    raise TransferFailed(
        f"The backup has a sign-in for the account {tag}, which the configuration does not have; it has {tags}. "
        "Nothing was changed."
    )
