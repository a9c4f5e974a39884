"""The owner's Codex credential: reloaded when it changes, refreshed once, and written back atomically.

Start at :mod:`~ocm_wsgi.credentials.source`. Tokens are refreshed in a process of its own,
:mod:`~ocm_wsgi.credentials.refresh_process`, which is not imported here because it is run as a program.
"""

from __future__ import annotations

from ocm_wsgi.credentials.credential import Credential, Mode
from ocm_wsgi.credentials.refresh_client import Refresher
from ocm_wsgi.credentials.refresh_protocol import RefreshSettings, Timeouts
from ocm_wsgi.credentials.source import CredentialSource

__all__ = [
    "Credential",
    "CredentialSource",
    "Mode",
    "RefreshSettings",
    "Refresher",
    "Timeouts",
    "auth_file",
    "auth_file_reader",
    "auth_file_writer",
    "refresh_protocol",
    "sign_in",
    "unauthorized",
]
