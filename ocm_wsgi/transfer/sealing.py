"""Encrypts the owner's credential with a passphrase, with Fernet and scrypt of the package ``cryptography``."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from ocm_wsgi.errors import TransferFailed

#: The shortest passphrase. The backup may lie where an attacker can try as many as scrypt lets them.
MIN_PASSPHRASE_LENGTH = 12

_SALT_BYTES = 16
# 128 MiB and a third of a second for each attempt. Source: OWASP, Password Storage Cheat Sheet.
_COST = {"n": 1 << 17, "r": 8, "p": 1}


def seal(document: Mapping[str, Any], passphrase: str) -> str:
    """Return the content of an ``auth.json``, encrypted.

    :raises TransferFailed: the passphrase is too short, or the package ``cryptography`` is not installed.
    """
    if len(passphrase) < MIN_PASSPHRASE_LENGTH:
        raise TransferFailed(f"The passphrase must have at least {MIN_PASSPHRASE_LENGTH} characters.")
    salt = os.urandom(_SALT_BYTES)
    token: bytes = _fernet(passphrase, salt).encrypt(json.dumps(document).encode())
    return f"{base64.b64encode(salt).decode()}:{token.decode()}"


def unseal(sealed: str, passphrase: str) -> dict[str, Any]:
    """Return what was encrypted.

    :raises TransferFailed: the passphrase is wrong, or the package ``cryptography`` is not installed.
    """
    salt, _, token = sealed.partition(":")
    fernet = _fernet(passphrase, base64.b64decode(salt))
    from cryptography.fernet import InvalidToken

    try:
        document: dict[str, Any] = json.loads(fernet.decrypt(token.encode()))
    except InvalidToken:
        raise TransferFailed("The passphrase of the credential is wrong. Nothing was changed.") from None
    return document


def _fernet(passphrase: str, salt: bytes) -> Any:
    try:
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
    except ImportError as exc:
        raise TransferFailed(
            "Encrypting the credential needs the package cryptography: pip install 'ocm-wsgi[encryption]'."
        ) from exc
    key = Scrypt(salt=salt, length=32, **_COST).derive(passphrase.encode())
    return Fernet(base64.urlsafe_b64encode(key))
