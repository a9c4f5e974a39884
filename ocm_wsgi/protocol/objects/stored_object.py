"""An object that OpenAI stores, as an answer names it. Pure; no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: IDs consist of these characters only. Anything else in their place is not recorded.
OBJECT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,200}", re.ASCII)


@dataclass(frozen=True)
class NamedObject:
    """An object that an answer names.

    :ivar id: consists of the characters of :data:`OBJECT_ID`.
    :ivar kind: a kind of the endpoint table's, or ``item`` for what is inside a response.
    """

    id: str
    kind: str


def named(object_id: object, kind: str) -> list[NamedObject]:
    """Return the object of this ID in a list, or an empty list for a value that is no ID."""
    if isinstance(object_id, str) and OBJECT_ID.fullmatch(object_id):
        return [NamedObject(object_id, kind)]
    return []
