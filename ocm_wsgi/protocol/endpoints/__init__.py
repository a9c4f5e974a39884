"""Which endpoints of OpenAI's are relayed, for each kind of credential, and what each of them is.

:mod:`~ocm_wsgi.protocol.endpoints.table` finds an endpoint, :mod:`~ocm_wsgi.protocol.endpoints.endpoint` says what is
known of it; the rows are in ``chatgpt`` and ``platform``. What is in no table is refused.
"""

from __future__ import annotations

__all__ = ["chatgpt", "endpoint", "platform", "table"]
