"""Decides whether a request may use the stored objects that it names, in its path and in its body."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ocm_wsgi.accounting.settlement import Settlements
from ocm_wsgi.errors import (
    BodyUnreadable,
    ObjectNotFound,
    PreviousResponseNotFound,
    ReferenceNotFound,
    StateError,
)
from ocm_wsgi.ownership.open_answer import Answer, FetchedAnswer, OpenAnswer, PlainAnswer
from ocm_wsgi.ownership.owners import Owner, Owners
from ocm_wsgi.protocol.endpoints.endpoint import Endpoint, Family, ObjectKind
from ocm_wsgi.protocol.http.fields import value_of
from ocm_wsgi.protocol.objects.answers import FirstEvent
from ocm_wsgi.protocol.responses.observer import is_event_stream, observer_for
from ocm_wsgi.protocol.responses.references import (
    FindReferences,
    no_references_in,
    outer_references_in,
    references_in,
)
from ocm_wsgi.protocol.responses.request import RequestFacts
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL

_log = logging.getLogger(__name__)

# Upstream's sentences about an unknown ID, by kind; for all others the last one.
_SENTENCES = {
    "response": "Response with id '{id}' not found.",
    "conversation": "Conversation with id '{id}' not found.",
    "container": "Container with id '{id}' not found.",
    "batch": "No batch found with id '{id}'.",
    "vector_store": "No vector store found with id '{id}'.",
}
_OTHER_SENTENCE = "No such {kind} object: {id}"

# Objects whose answers name further objects that belong to them, later than when they were created.
_GROWING_KINDS = frozenset({"response", "batch", "fine_tuning_job"})

#: How those that are jobs report what they used; all others as responses do.
FAMILIES: Mapping[ObjectKind | None, Family] = {"batch": "batch", "fine_tuning_job": "fine_tuning"}


# Endpoints whose bodies refer to nothing that is stored: they are uploads, which need not be read, or mere text.
_WITHOUT_REFERENCES = frozenset(
    {
        "audio/speech",
        "audio/transcriptions",
        "audio/translations",
        "embeddings",
        "files",
        "images/variations",
        "moderations",
        "uploads/{upload}/parts",
    }
)


@dataclass(frozen=True)
class Access:
    """A request that may use the object that its path names, if any.

    :ivar user: the name of the user.
    :ivar endpoint: of the request.
    :ivar object_id: the object that the path names, or ``None``.
    :ivar owner: the owner of that object, if it has one.
    :ivar find_references: finds what the body refers to, as far as that must be the user's.
    :ivar requires_body: whether the body must be read for that.
    :ivar credential: the tag of the account that serves the request, and stores what it creates.
    :ivar lists: the kind of the objects of which the answer may list the user's own only; ``None``: of no kind.
    """

    user: str
    endpoint: Endpoint
    object_id: str | None
    owner: Owner | None
    find_references: FindReferences
    requires_body: bool
    lists: ObjectKind | None
    credential: str = DEFAULT_CREDENTIAL


def require_access(
    owners: Owners,
    user: str,
    endpoint: Endpoint,
    path: str,
    *,
    sees_all: bool,
    is_stored: bool,
    credential: str = DEFAULT_CREDENTIAL,
) -> Access:
    """Return the access of a request to the object that its path names.

    :param path: the decoded path below ``/v1/``.
    :param sees_all: whether the user may use everyone's objects.
    :param is_stored: whether upstream stores objects, as for an API key.
    :param credential: the tag of the account that serves the request.
    :raises ObjectNotFound: the object is not the user's, or does not exist.
    :raises StateError: that cannot be decided at the moment.
    """
    object_id = endpoint.object_id(path)
    owner = None if object_id is None else owners.owner_of(object_id)
    if object_id is not None and not sees_all and (owner is None or owner.user != user):
        raise _not_found(endpoint.object_kind, object_id)
    return Access(
        user,
        endpoint,
        object_id,
        owner,
        find_references=no_references_in if sees_all else references_in if is_stored else outer_references_in,
        requires_body=is_stored and not sees_all and endpoint.path not in _WITHOUT_REFERENCES,
        lists=None if sees_all else endpoint.lists,
        credential=credential,
    )


def require_body(owners: Owners, access: Access, facts: RequestFacts) -> None:
    """Require that a request's body refers to nothing that is not the user's.

    :raises BodyUnreadable: it might, but could not be read.
    :raises ReferenceNotFound: it does, or to what does not exist.
    :raises StateError: that cannot be decided at the moment.
    """
    if facts.unread and access.requires_body:
        raise BodyUnreadable(f"What the request refers to is unknown, because {facts.unread}.")
    require_references(owners, access.user, facts.references)


def require_references(owners: Owners, user: str, ids: Collection[str]) -> None:
    """Require that a user owns all these objects.

    :raises ReferenceNotFound: one of them is not the user's, or does not exist.
    :raises StateError: that cannot be decided at the moment.
    """
    for object_id in sorted(owners.not_owned(user, ids)):
        shown = object_id[:200]
        if object_id.startswith("resp"):
            message = f"Previous response with id '{shown}' not found."
            raise PreviousResponseNotFound(message, param="previous_response_id")
        raise ReferenceNotFound(f"The request refers to '{shown}', which does not exist or is not yours.")


def claiming_answer(
    owners: Owners,
    settlements: Settlements,
    access: Access,
    status: int,
    fields: Iterable[tuple[str, str]],
    turn: Answer | None,
    *,
    facts: RequestFacts,
    turn_id: str | None = None,
) -> OpenAnswer | None:
    """Return an answer that records the owner of what it names before that is sent; ``None`` if it names nothing.

    If it is a response that was asked for earlier, it also settles the turn.

    :param status: the status of the answer.
    :param fields: its fields.
    :param turn: the answer as a turn, or ``None`` if it is none.
    :param facts: what the request asks for.
    :param turn_id: the ID of that turn.
    """
    endpoint = access.endpoint
    owner = access.user
    if access.object_id is not None and endpoint.creates is None:
        # What belongs to an object is its owner's, even if an admin asks for it.
        owner = "" if access.owner is None else access.owner.user
    names_objects = _creates(endpoint, facts) or endpoint.object_kind in _GROWING_KINDS
    if not names_objects or not owner or not 200 <= status < 300:
        return None
    media_type, coding = value_of(fields, "content-type") or "", value_of(fields, "content-encoding") or ""
    is_stream = is_event_stream(media_type, family=endpoint.family or "other")
    family = FAMILIES.get(endpoint.object_kind, "responses")
    observer = observer_for(status=status, media_type=media_type, content_encoding=coding, family=family)
    first_event = FirstEvent(endpoint.creates, coding) if is_stream and endpoint.creates is not None else None
    inner: Answer
    if turn is not None:
        inner = turn
    elif access.object_id is not None and access.owner is not None and access.owner.turn is not None:
        inner = FetchedAnswer(
            observer, settlements, access.owner.turn, access.object_id, is_stream=is_stream, family=family
        )
    else:
        inner = PlainAnswer(observer, is_stream=is_stream)
    return OpenAnswer(
        inner,
        owners,
        owner,
        endpoint.creates,
        first_event=first_event,
        turn_id=turn_id,
        credential=access.credential,
    )


def _creates(endpoint: Endpoint, facts: RequestFacts) -> bool:
    """Return whether upstream is asked to store a new object: a completion only on request, a response unless not."""
    if endpoint.creates == "completion":
        return bool(facts.store or facts.unread)
    return endpoint.creates is not None and not (endpoint.creates == "response" and facts.store is False)


def forget_deleted(owners: Owners, access: Access, status: int) -> None:
    """Remove the row of an object that upstream has just deleted."""
    if access.object_id is None or not access.endpoint.deletes or not 200 <= status < 300:
        return
    try:
        owners.forget(access.object_id)
    except StateError as exc:
        _log.warning("The row of a deleted %s remains: %s", access.endpoint.object_kind, exc.detail or exc)


def _not_found(kind: ObjectKind | None, object_id: str) -> ObjectNotFound:
    sentence = _SENTENCES.get(kind or "", _OTHER_SENTENCE)
    return ObjectNotFound(sentence.format(kind=(kind or "object").replace("_", " "), id=object_id))
