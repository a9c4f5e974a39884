"""The base class of all errors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class OcmError(Exception):
    """Base class of all errors in this package.

    :param message: one sentence for the client; safe to send.
    :param detail: further information for the log, or ``None``; never sent to a client. Must not contain a secret.
    :param retry_after_seconds: sent as ``Retry-After`` unless ``None``; at least 1.
    :ivar members: sent beside ``type``, ``code`` and ``message`` in the ``error`` object.
    :ivar response_fields: sent as additional response fields.
    """

    status = 500
    error_type = "api_error"
    code: str | None = None
    exit_code = 1
    members: Mapping[str, object] = MappingProxyType({})
    response_fields: Mapping[str, str] = MappingProxyType({})

    def __init__(self, message: str, *, detail: str | None = None, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds

    def as_json(self) -> dict[str, object]:
        """Return the ``error`` object that clients receive, in OpenAI's shape."""
        return {"type": self.error_type, "code": self.code, "message": self.message, **self.members}
