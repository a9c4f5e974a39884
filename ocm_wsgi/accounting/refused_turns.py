"""Records the turns that upstream refused: the client gets an error of ours in place of its response."""

from __future__ import annotations

from ocm_wsgi.accounting.turn_accounting import Accounting, TurnInProgress, TurnRequest
from ocm_wsgi.errors import OcmError, RequestUnauthorized
from ocm_wsgi.protocol.responses.turn import Outcome


def record_refused(accounting: Accounting, request: TurnRequest, refusal: OcmError) -> None:
    """Record a turn that was refused, and wait until that is durable, which takes about a second at most."""
    turn = TurnInProgress(
        request, status=refusal.status, transport="json", week_start=None, request_id=request.request_id
    )
    accounting.record(turn, Outcome("error", error_code=_code(refusal)))


def _code(refusal: OcmError) -> str | None:
    code = refusal.upstream_code if isinstance(refusal, RequestUnauthorized) else None
    return code or refusal.code
