"""An endpoint of OpenAI's: its method and path, what it costs, and which stored objects it concerns. Pure; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

#: The method of an opening handshake of a WebSocket, which is a ``GET`` on the wire. No request line can have it.
WEBSOCKET = "GET (WebSocket)"

#: How a turn reports its usage. ``other``: in a way that is not known.
Family = Literal[
    "responses",
    "chat",
    "completions",
    "embeddings",
    "images",
    "speech",
    "transcription",
    "video",
    "moderation",
    "realtime",
    "search",
    "memories",
    "batch",
    "fine_tuning",
    "container",
    "eval",
    "run",
    "other",
]

#: What OpenAI stores on behalf of the owner of an API key. Objects inside another belong to the outer one.
ObjectKind = Literal[
    "response",
    "conversation",
    "completion",
    "file",
    "upload",
    "batch",
    "vector_store",
    "container",
    "video",
    "fine_tuning_job",
    "eval",
    "assistant",
    "thread",
    "skill",
]

_OBJECT_KINDS = frozenset(get_args(ObjectKind))


@dataclass(frozen=True)
class Endpoint:
    """One method of one path that is relayed.

    :ivar method: as in a request line; :data:`WEBSOCKET` for an opening handshake.
    :ivar path: below ``/v1/``. A segment in braces matches an ID or a name. The first one that is named after a
        kind of stored object is the ID of such an object, and the request concerns that object.
    :ivar family: how the turn reports its usage; ``None`` where no model works, so that nothing is counted.
    :ivar creates: the kind of stored object whose ID the answer names for the first time, if there is one.
    :ivar lists: the kind of the stored objects that the answer lists, for all owners; ``None`` where it lists none,
        or only what is inside the object that the path names.
    :ivar names_model: whether a turn names its model in the request's body. It need not where no model is chosen, or
        where the model is that of an object of the user's own.
    :ivar is_metered: whether what a turn uses passes through this service, so that it is bounded, and counted or
        estimated at its end. Otherwise the turn runs elsewhere or later: in a call over WebRTC, or as a job.
    :ivar for_admins: whether only admins may use it.
    :ivar object_kind: the kind of the stored object that the path names, or ``None``.
    """

    method: str
    path: str
    family: Family | None = None
    creates: ObjectKind | None = None
    lists: ObjectKind | None = None
    for_admins: bool = False
    names_model: bool = True
    is_metered: bool = True
    object_kind: ObjectKind | None = field(init=False, default=None)
    _object_at: int = field(init=False, default=0, repr=False)

    def __post_init__(self) -> None:
        for index, segment in enumerate(self.path.split("/")):
            if is_parameter(segment) and segment[1:-1] in _OBJECT_KINDS:
                object.__setattr__(self, "object_kind", segment[1:-1])
                object.__setattr__(self, "_object_at", index)
                return

    @property
    def is_turn(self) -> bool:
        """Whether a request makes a model work, or costs something in another way, and is therefore counted."""
        return self.family is not None

    @property
    def has_answer_read(self) -> bool:
        """Whether the answer is read, for its usage or for the IDs of stored objects."""
        return self.is_turn or self.creates is not None or self.object_kind is not None

    @property
    def deletes(self) -> bool:
        """Whether a request deletes the stored object that the path names, not only something inside it."""
        return self.method == "DELETE" and self.object_kind is not None and self.path.count("/") == self._object_at

    def object_id(self, path: str) -> str | None:
        """Return the ID of the stored object that a request's path names; ``None`` if :attr:`object_kind` is.

        :param path: the decoded path below ``/v1/``, for which this endpoint was found.
        """
        return None if self.object_kind is None else path.split("/")[self._object_at]


def is_parameter(segment: str) -> bool:
    """Return whether a segment of an endpoint's path matches any ID or name."""
    return segment.startswith("{")
