"""Claims of JWTs, read without verifying the signature.

Nothing here decides about trust: the tokens come from the owner's own file and are sent to their issuer. An invalid
token has no claims.

Source: RFC 7519; the claim names are those that the Codex client uses.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

AUTH_CLAIM = "https://api.openai.com/auth"
PROFILE_CLAIM = "https://api.openai.com/profile"


def claims_of(token: str | None) -> Mapping[str, Any]:
    """Return the claims of a three-part JWT, or an empty mapping if it is not one."""
    parts = (token or "").split(".")
    if len(parts) != 3:
        return {}
    payload = parts[1]
    try:
        decoded = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        claims = json.loads(decoded)
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def auth_claims_of(id_token: str | None) -> Mapping[str, Any]:
    """Return OpenAI's claims about the account in an id token, or an empty mapping."""
    claims = claims_of(id_token).get(AUTH_CLAIM)
    return claims if isinstance(claims, dict) else {}


def expires_at(access_token: str) -> float | None:
    """Return ``exp`` in Unix seconds, or ``None`` if the token has no valid one."""
    return _timestamp(access_token, "exp")


def issued_at(access_token: str) -> float | None:
    """Return ``iat`` in Unix seconds, or ``None`` if the token has no valid one."""
    return _timestamp(access_token, "iat")


def _timestamp(token: str, claim: str) -> float | None:
    value = claims_of(token).get(claim)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None
