"""The owner's Codex credential: read as it changes, renewed once, written back whole.

Start at :mod:`~ocm_wsgi.credentials.source`. The process that renews is
:mod:`~ocm_wsgi.credentials.refresh_process`; it is not imported here, for it is run as a program.
"""

from __future__ import annotations

from ocm_wsgi.credentials.credential import Credential, Mode
from ocm_wsgi.credentials.refresh_client import Refresher
from ocm_wsgi.credentials.refresh_protocol import RefreshSettings, Timeouts
from ocm_wsgi.credentials.source import CredentialSource

__all__ = ["Credential", "CredentialSource", "Mode", "RefreshSettings", "Refresher", "Timeouts"]
