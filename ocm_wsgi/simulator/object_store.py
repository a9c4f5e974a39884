"""The objects that the platform has stored."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

#: The number of objects of all kinds that are stored.
MAX_STORED = 10_000


@dataclass
class StoredObjects:
    """All objects, by collection and ID. Every method is thread-safe."""

    _objects: OrderedDict[tuple[str, str], dict[str, Any]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, collection: str, value: dict[str, Any]) -> dict[str, Any]:
        """Store an object, which has an ``id``, and return it."""
        with self._lock:
            self._objects[collection, value["id"]] = value
            if len(self._objects) > MAX_STORED:
                self._objects.popitem(last=False)
        return value

    def get(self, collection: str, object_id: str) -> dict[str, Any] | None:
        """Return an object, or ``None``."""
        with self._lock:
            return self._objects.get((collection, object_id))

    def remove(self, collection: str, object_id: str) -> dict[str, Any] | None:
        """Delete an object and return it, or ``None``."""
        with self._lock:
            return self._objects.pop((collection, object_id), None)

    def all(self, collection: str) -> list[dict[str, Any]]:
        """Return the objects of a collection, the newest first."""
        with self._lock:
            return [value for (name, _), value in reversed(self._objects.items()) if name == collection]
