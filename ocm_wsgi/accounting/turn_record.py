"""Converts turns to and from flat records: rows of the table ``turn``, and lines of the spool. Pure; no I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL

Record = dict[str, Any]

#: Bounds of a record's texts and numbers. The client chooses the model's name and upstream the numbers; neither may
#: make a record large, or one that the database refuses, which would block all records after it.
MAX_TEXT_LENGTH = 200
MAX_NUMBER = 2**53

_USAGE_FIELDS = tuple(field.name for field in dataclasses.fields(Usage))
_TURN_FIELDS = tuple(field.name for field in dataclasses.fields(Turn) if field.name != "usage")

# Defaults for fields that are missing from a journal written by another release.
_DEFAULTS: Record = {
    "user": "",
    "credential": DEFAULT_CREDENTIAL,
    "model": "",
    "service_tier": "default",
    "context_window": 0,
    "week_start": None,
    **dict.fromkeys(_USAGE_FIELDS),
    "cost_micro_usd": None,
    "transport": "sse",
    "status": "completed",
    "http_status": 0,
    "first_byte_ms": 0,
    "duration_ms": 0,
    "request_id": "",
    "error_code": "",
    "estimated": False,
}
_UNKNOWN_USAGE: Record = dict.fromkeys(_USAGE_FIELDS)
_FIELDS = {"id", "started_at", *_DEFAULTS}
_required = itemgetter(*(name for name, default in _DEFAULTS.items() if default is not None))


def record_of(turn: Turn) -> Record:
    """Return a turn as a record, with every text and number within bounds."""
    record = dict(vars(turn))
    usage = record.pop("usage")
    record.update(_UNKNOWN_USAGE if usage is None else vars(usage))
    for name, value in record.items():
        # Nearly all are within bounds, and there are more than thirty: not worth a function call each.
        if type(value) is int:
            is_bounded = 0 <= value <= MAX_NUMBER
        elif type(value) is str:
            is_bounded = len(value) <= MAX_TEXT_LENGTH and value.isascii() and "\0" not in value
        else:
            is_bounded = value is None
        if not is_bounded:
            record[name] = bounded(value)
    record["started_at"] = turn.started_at
    return record


def turn_of(record: Mapping[str, Any]) -> Turn:
    """Return the turn that a record was made from."""
    has_usage = record["input_tokens"] is not None
    usage = Usage(**{name: record[name] or 0 for name in _USAGE_FIELDS}) if has_usage else None
    return Turn(usage=usage, **{name: record[name] for name in _TURN_FIELDS})


def completed(record: Record) -> Record | None:
    """Return a record with exactly the fields of this release, as the table requires.

    A record that the table refused would block all records after it.

    :return: ``None`` if it is not the record of a turn.
    """
    if not isinstance(record.get("id"), str) or not isinstance(record.get("started_at"), float | int):
        return None
    if record.keys() == _FIELDS and None not in _required(record):
        return record  # As all are that this release has made.
    known = record.get
    fields = {name: default if (value := known(name)) is None else value for name, default in _DEFAULTS.items()}
    return {"id": record["id"], "started_at": record["started_at"], **fields}


def bounded(value: Any) -> Any:
    """Return a value within the bounds of a record."""
    if isinstance(value, str):
        return _bounded_text(value)
    return value if value is None or isinstance(value, bool) else min(max(int(value), 0), MAX_NUMBER)


def _bounded_text(text: str) -> str:
    if len(text) <= MAX_TEXT_LENGTH and text.isascii() and "\0" not in text:
        return text
    # A lone surrogate cannot be encoded as UTF-8, and PostgreSQL does not accept NUL.
    return text[:MAX_TEXT_LENGTH].replace("\0", "").encode("utf-8", "replace").decode()
