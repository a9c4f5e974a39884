"""Remembers which refresh token was permanently refused, for all processes of this service.

There is one small file per credential in the state directory. It contains a digest and no token.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ocm_wsgi.oauth.refresh import TokenEndpoint
from ocm_wsgi.storage.files import make_private_folder, replace_file


@dataclass(frozen=True)
class Refusal:
    """One refusal.

    :ivar digest: of the refresh token, the endpoint and the client; see :func:`digest_of`.
    :ivar oauth_code: the issuer's error code.
    :ivar refused_at: Unix seconds.
    """

    digest: str
    oauth_code: str
    refused_at: float


_REFUSAL = TypeAdapter(Refusal)


def digest_of(refresh_token: str, endpoint: TokenEndpoint) -> str:
    """Return the key of a refusal. Another endpoint or client may still accept the same token."""
    presented = "\0".join((endpoint.url, endpoint.client_id, refresh_token))
    return hashlib.sha256(presented.encode()).hexdigest()


class RefusalStore:
    """Stores the last refusal of one credential."""

    def __init__(self, credential_path: Path, *, state_path: Path) -> None:
        name = hashlib.sha256(os.fsencode(os.path.realpath(credential_path))).hexdigest()[:16]
        self._path = state_path / f"refused-{name}.json"

    def find(self, digest: str) -> Refusal | None:
        """Return the refusal with this digest, or ``None``. A file that cannot be read is ignored."""
        try:
            refusal = _REFUSAL.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return None
        return refusal if refusal.digest == digest else None

    def record(self, digest: str, oauth_code: str) -> Refusal:
        """Store a refusal in place of the previous one. Call it while holding the credential's locks.

        If the state directory is not writable, it is not stored; each process then presents the token once itself.
        """
        refusal = Refusal(digest, oauth_code, time.time())
        with suppress(OSError):
            self._write(_REFUSAL.dump_json(refusal))
        return refusal

    def _write(self, content: bytes) -> None:
        make_private_folder(self._path.parent)
        replace_file(self._path, content, temporary=self._path.with_suffix(".new"))
