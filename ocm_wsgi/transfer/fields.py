"""The fields of users and turns in exports, as JSON and as cells of a spreadsheet. Pure; no I/O.

They are the columns of the tables ``user`` and ``turn``, without the number of a user's row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from ocm_wsgi.accounting.turn_record import MAX_NUMBER
from ocm_wsgi.protocol.responses.turn import Transport, TurnStatus
from ocm_wsgi.storage import schema as db

Kind = Literal["users", "turns"]
Record = dict[str, Any]

#: What a record must have; other fields may be missing, as in the exports of an earlier release.
REQUIRED: Mapping[Kind, tuple[str, ...]] = {"users": ("name", "token_sha256"), "turns": ("id", "started_at", "user")}

#: The values of fields that have only some.
CHOICES: Mapping[str, tuple[str, ...]] = {"status": get_args(TurnStatus), "transport": get_args(Transport)}

_EXPECTED = {
    "text": "a text",
    "flag": "true or false",
    "integer": "a whole number of 0 or more",
    "number": "a number of 0 or more",
    "list": "a list of texts",
}


@dataclass(frozen=True)
class Field:
    """A field of a record.

    :ivar may_be_null: whether ``None`` is a value of it: an empty cell.
    """

    name: str
    kind: Literal["text", "flag", "integer", "number", "list"]
    may_be_null: bool

    def require_valid(self, value: Any) -> None:
        """Raise unless a value is one of this field.

        :raises ValueError: with what was expected.
        """
        if not ((value is None and self.may_be_null) or self._is_valid(value)):
            raise ValueError(f"{self.name} is {_shown(value)}, but must be {self._expected()}")

    def cell(self, value: Any) -> object:
        """Return the cell of a value."""
        if value is None:
            return ""
        if self.kind in ("list", "flag"):
            return json.dumps(value)
        return value

    def from_cell(self, cell: str) -> Any:
        """Return the value of a cell, which need not be valid."""
        if self.kind == "text" and not (self.may_be_null and not cell):
            return cell
        if not cell:
            return None
        try:
            # Spreadsheets write TRUE.
            return json.loads(cell.lower() if self.kind == "flag" else cell)
        except ValueError:
            return cell

    def _expected(self) -> str:
        return " or ".join(CHOICES.get(self.name, ())) or _EXPECTED[self.kind]

    def _is_valid(self, value: Any) -> bool:
        if self.kind == "text":
            return isinstance(value, str) and value in CHOICES.get(self.name, (value,))
        if self.kind == "flag":
            return isinstance(value, bool)
        if self.kind == "list":
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        kinds = int if self.kind == "integer" else int | float
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and 0 <= value <= MAX_NUMBER


def _fields_of(table: sa.Table) -> tuple[Field, ...]:
    found = []
    for column in table.columns:
        kinds = {sa.Boolean: "flag", sa.JSON: "list", sa.Double: "number", sa.Integer: "integer", sa.String: "text"}
        kind = next(name for type_, name in kinds.items() if isinstance(column.type, type_))
        found.append(Field(column.name, kind, bool(column.nullable)))  # type: ignore[arg-type]  # one of the literals
    return tuple(found)


FIELDS: Mapping[Kind, Sequence[Field]] = {
    "users": tuple(field for field in _fields_of(db.user) if field.name != "id"),
    "turns": _fields_of(db.turn),
}


def checked(kind: Kind, members: Mapping[str, Any]) -> Record:
    """Return a record whose fields are all known and valid.

    :raises ValueError: with the first problem.
    """
    fields = {field.name: field for field in FIELDS[kind]}
    for name in REQUIRED[kind]:
        if members.get(name) is None:
            raise ValueError(f"{name} is missing")
    for name, value in members.items():
        if name not in fields:
            raise ValueError(f"{_shown(name)} is not a field of {kind} that this release knows")
        # What is missing gets its default, and so does null where there is one.
        if value is not None:
            fields[name].require_valid(value)
    return dict(members)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
