"""Errors of ours as messages of a WebSocket. Pure; no I/O."""

from __future__ import annotations

import json

from ocm_wsgi.errors import OcmError
from ocm_wsgi.protocol.websocket.frames import server_text


def refusal_message(error: OcmError, stream_id: str | None = None) -> bytes:
    """Return a frame with one of our errors, in the form that OpenAI uses for errors on a WebSocket.

    Codex treats it as an HTTP response with this status and these fields.

    :param stream_id: the lane of the refused message, or ``None``.
    """
    fields = dict(error.response_fields)
    if error.retry_after_seconds is not None:
        fields["retry-after"] = str(error.retry_after_seconds)
    message: dict[str, object] = {
        "type": "error",
        "status": error.status,
        "error": error.as_json(),
        "headers": fields,
    }
    if stream_id is not None:
        message["stream_id"] = stream_id
    return server_text(json.dumps(message, separators=(",", ":")).encode())
