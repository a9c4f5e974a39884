"""What a JWT says of itself, read without checking its signature.

Nothing here is a decision about trust: the tokens come out of the owner's own file and go back to who issued them.
A token that cannot be read has no claims.

Source: RFC 7519; the claim names are those that the Codex client reads.
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
    """Return the claims of a three-part JWT, or an empty mapping when it is none."""
    parts = (token or "").split(".")
    if len(parts) != 3:
        return {}
    payload = parts[1]
    try:
        octets = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        claims = json.loads(octets)
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def auth_claims_of(id_token: str | None) -> Mapping[str, Any]:
    """Return what OpenAI says of the account in an id token, or an empty mapping."""
    claims = claims_of(id_token).get(AUTH_CLAIM)
    return claims if isinstance(claims, dict) else {}


def expires_at(access_token: str) -> float | None:
    """Return ``exp`` in Unix seconds, or ``None`` when the token has none that can be read."""
    return _moment(access_token, "exp")


def issued_at(access_token: str) -> float | None:
    """Return ``iat`` in Unix seconds, or ``None`` when the token has none that can be read."""
    return _moment(access_token, "iat")


def _moment(token: str, claim: str) -> float | None:
    value = claims_of(token).get(claim)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None
