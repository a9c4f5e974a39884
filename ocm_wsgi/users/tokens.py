"""Generates bearer tokens, and computes the digest by which they are stored and compared. Pure; no I/O."""

from __future__ import annotations

import hashlib
import secrets
import string

TOKEN_PREFIX = "sk-ocm-"  # noqa: S105 - the prefix of every token, by which secret scanners can find one

# 43 of 62 characters: 256 bits.
_TOKEN_LENGTH = 43
_TOKEN_ALPHABET = string.ascii_letters + string.digits


def new_token() -> str:
    """Return a new random bearer token."""
    return TOKEN_PREFIX + "".join(secrets.choice(_TOKEN_ALPHABET) for _ in range(_TOKEN_LENGTH))


def token_digest(bearer_token: str) -> str:
    """Return the SHA-256 of a token in hexadecimal. It has no salt: tokens are random and cannot be guessed."""
    return hashlib.sha256(bearer_token.encode("utf-8", "surrogateescape")).hexdigest()
