"""SQL that replaces what is recorded of a turn with what upstream has reported later: once, together with the sums.

A settlement is a record too: it is written by the recorder, and waits in the spool while the database fails. It applies
only as long as its turn has an estimate or no usage at all, so that it may be written twice, and by several processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import sqlalchemy as sa

from ocm_wsgi.accounting.queries import add_turns_to_sums
from ocm_wsgi.accounting.turn_record import Record, bounded
from ocm_wsgi.protocol.responses.turn import TurnStatus, Usage
from ocm_wsgi.storage import schema as db

#: What a settlement changes of a turn.
_CHANGED = (
    "model",
    "service_tier",
    "context_window",
    "cost_micro_usd",
    "status",
    "error_code",
    *(field.name for field in dataclasses.fields(Usage)),
)
_SETTLES = "settles"


def settlement(
    turn_id: str,
    usage: Usage,
    *,
    status: TurnStatus,
    model: str,
    service_tier: str,
    context_window: int,
    cost_micro_usd: int | None,
    error_code: str,
) -> Record:
    """Return the record that settles a turn."""
    values = {
        "status": status,
        "model": model,
        "service_tier": service_tier,
        "context_window": context_window,
        "cost_micro_usd": cost_micro_usd,
        "error_code": error_code,
        **dataclasses.asdict(usage),
    }
    return {_SETTLES: turn_id, **{name: bounded(value) for name, value in values.items()}}


def is_settlement(record: Record) -> bool:
    """Return whether a record settles a turn, and is not one itself."""
    return _SETTLES in record


def settle(connection: sa.Connection, records: Iterable[Record]) -> None:
    """Settle turns that are not settled yet, and correct the sums."""
    for record in records:
        turn = db.turn.c
        row = connection.execute(sa.select(db.turn).where(turn.id == record[_SETTLES])).mappings().first()
        if row is None:
            continue
        changes = {name: record.get(name) for name in _CHANGED}
        update = (
            db.turn.update()
            .where(turn.id == record[_SETTLES], sa.or_(turn.estimated, turn.input_tokens.is_(None)))
            .values(**changes, estimated=False)
        )
        if connection.execute(update).rowcount:
            before = dict(row)
            add_turns_to_sums(connection, removed=[before], added=[{**before, **changes, "estimated": False}])
