"""Which of upstream's 401 are the credential's fault, and which tokens were already replaced because of one.

A 401 can also be about the request: its endpoint, its organization, a permission that the account lacks. A refresh
would not cure that, and each one uses up a refresh token.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ocm_wsgi.errors import RequestUnauthorized
from ocm_wsgi.storage.files import make_private_folder, replace_file

#: Error codes that blame the access token: those that Codex knows, and those of OAuth (RFC 6750 section 3.1).
TOKEN_CODES = frozenset(
    {
        "token_expired",
        "token_invalidated",
        "token_revoked",
        "access_token_expired",
        "access_token_invalidated",
        "expired_token",
        "invalid_access_token",
        "invalid_token",
    }
)
#: Error codes that blame an API key.
KEY_CODES = frozenset({"account_deactivated", "api_key_expired", "incorrect_api_key_provided", "invalid_api_key"})

#: A token that was obtained because of a 401 is not replaced because of another one within this time, in seconds: an
#: endpoint may answer 401 to every token, whatever code it names.
HOLD_SECONDS = 3600.0


@dataclass(frozen=True)
class _Replaced:
    """The last tokens that were obtained because of a 401.

    :ivar fingerprint: of the document with the new tokens.
    :ivar at: Unix seconds.
    """

    fingerprint: str
    at: float


_REPLACED = TypeAdapter(_Replaced)


class ReplacedStore:
    """Remembers, for all processes, the last tokens that were obtained because of a 401. Contains no token."""

    def __init__(self, credential_path: Path, *, state_path: Path) -> None:
        name = hashlib.sha256(os.fsencode(os.path.realpath(credential_path))).hexdigest()[:16]
        self._path = state_path / f"unauthorized-{name}.json"

    def record(self, fingerprint: str) -> None:
        """Remember new tokens. Call it while holding the credential's locks.

        If the state directory is not writable, each process remembers its own refreshes for a shorter time.
        """
        with suppress(OSError):
            make_private_folder(self._path.parent)
            content = _REPLACED.dump_json(_Replaced(fingerprint, time.time()))
            replace_file(self._path, content, temporary=self._path.with_suffix(".new"))

    def is_held(self, fingerprint: str) -> bool:
        """Return whether these tokens were obtained because of a 401, too recently to be replaced again."""
        try:
            replaced = _REPLACED.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return False
        return replaced.fingerprint == fingerprint and abs(time.time() - replaced.at) < HOLD_SECONDS


def request_unauthorized(error_code: str | None, *, is_replaced: bool = False) -> RequestUnauthorized:
    """Return the error for a request that upstream refuses with 401, whatever the credential.

    :param is_replaced: whether the credential was already replaced because of a 401.
    """
    code = "" if error_code is None else f" ({error_code})"
    sentence = f"OpenAI does not accept this request with the credential of this service{code}"
    if is_replaced:
        sentence += ", although that was refreshed recently. If all requests fail, its owner must sign in again"
    return RequestUnauthorized(f"{sentence}.", upstream_code=error_code, detail=f"upstream answered 401{code}")
