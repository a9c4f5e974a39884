"""Reads the model and the service tier out of a request body, or other members out of a message. Pure; no I/O.

They decide what the request may do, and upstream reads them once more. So they count as unknown unless every reader
must find the same: see :mod:`~ocm_wsgi.protocol.responses.strict_json` and :mod:`~ocm_wsgi.protocol.http.forms`. A body
may have any size and is never held whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from ocm_wsgi.protocol.http.content_coding import DecodingError, decoder_for
from ocm_wsgi.protocol.http.forms import (
    URLENCODED_LIMIT_BYTES,
    FormError,
    MultipartReader,
    parameters_of,
    urlencoded_fields,
)
from ocm_wsgi.protocol.responses.error_codes import label
from ocm_wsgi.protocol.responses.estimate import InputMeter
from ocm_wsgi.protocol.responses.media import MEDIA_MEMBERS, NOTHING_ORDERED, MediaRequest, media_request
from ocm_wsgi.protocol.responses.references import (
    FindReferences,
    FormFields,
    is_reference_field,
    no_references_in,
)
from ocm_wsgi.protocol.responses.strict_json import (
    PARSED_LIMIT_BYTES,
    DocumentShortener,
    NotStrictJson,
    strict_object,
)

#: No request, be it a body or a message, is decoded beyond this size.
DECODED_LIMIT_BYTES = 128 * 1024 * 1024

#: The members of a request that ``facts_of`` reads.
FACT_MEMBERS = frozenset(
    {"model", "service_tier", "store", "background", "previous_response_id", "conversation", *MEDIA_MEMBERS}
)
#: A call of the realtime API is described by a part ``session``, in JSON.
_FORM_FIELDS = ("model", "session", *MEDIA_MEMBERS)
_WANTED_FIELDS = FormFields(_FORM_FIELDS)

_NOT_JSON = "its body is not one JSON object in UTF-8 that names each of its members once"
_NOT_A_FORM = "its body is not a form that names each of its fields once"
_NOT_DECODED = "its body cannot be decoded"
_NOT_READABLE = "its media type is neither JSON nor a form"


@dataclass(frozen=True)
class RequestFacts:
    """What a request asks for; ``None`` where the request does not say, or could not be read.

    A model of ``None`` is unknown and must not pass as one that the user may use.

    :ivar unread: why the body could not be read, as the end of a sentence about the request; empty if it was read.
    :ivar store: whether upstream is asked to store the response.
    :ivar is_background: whether the response is to be made in the background.
    :ivar references: IDs of the stored objects that the body refers to, as far as they were looked for.
    :ivar continues: whether upstream adds input that it has stored: of an earlier response, a conversation or a prompt.
    :ivar input_tokens: estimate of the text and the images in the body.
    :ivar cache_key: the client's name for requests that begin alike, or ``None``.
    :ivar media: what it orders, if it is for images, audio or video.
    """

    model: str | None = None
    service_tier: str | None = None
    unread: str = field(default="", compare=False)
    store: bool | None = None
    is_background: bool = False
    references: frozenset[str] = frozenset()
    continues: bool = field(default=False, compare=False)
    input_tokens: int = field(default=0, compare=False)
    media: MediaRequest = field(default=NOTHING_ORDERED, compare=False)
    cache_key: str | None = field(default=None, compare=False)


def request_facts(
    blocks: Iterable[bytes],
    content_encoding: str = "",
    media_type: str = "",
    *,
    length: int = 0,
    find_references: FindReferences = no_references_in,
) -> RequestFacts:
    """Return what the body of a request asks for.

    :param blocks: the body, in blocks of any size, read to the end; at most tens of KiB each keep memory use small.
    :param content_encoding: the body's ``Content-Encoding``; a body that cannot be decoded has no facts.
    :param media_type: the body's ``Content-Type``, or ``""``, which means JSON.
    :param length: of the body as it was sent, in octets.
    :param find_references: finds the references in JSON.
    """
    meter = InputMeter()
    try:
        reader = _reader_for(media_type, find_references)
        for block in _decoded(blocks, content_encoding):
            meter.feed(block)
            reader.feed(block)
        return reader.finish(BodySize(length, meter.finish()))
    except DecodingError:
        unread = _NOT_DECODED
    except NotStrictJson:
        unread = _NOT_JSON
    except FormError:
        unread = _NOT_A_FORM
    except _NotReadable:
        unread = _NOT_READABLE
    # A body that cannot be read has a token for each byte at most.
    return RequestFacts(unread=unread, input_tokens=length, media=MediaRequest(octets=length))


def top_level_members(blocks: Iterable[bytes], names: Collection[str]) -> Mapping[str, Any] | None:
    """Return the members of a JSON object.

    Above 1 MiB, a string that is longer than 128 octets is replaced with another.

    :param blocks: read to the end, unless the document is refused before.
    :param names: of the members that matter, which must not be there in another case.
    :return: ``None`` if the document is not JSON that every parser reads alike, or is too intricate to be read in time.
    :raises DecodingError: raised by ``blocks``.
    """
    reader = _JsonReader(names)
    try:
        for block in blocks:
            reader.feed(block)
        return reader.document()
    except NotStrictJson:
        return None


class BodySize(NamedTuple):
    """The size of a body.

    :ivar octets: as it was sent.
    :ivar tokens: estimate of the text and the images in it.
    """

    octets: int
    tokens: int


#: For what is not a body.
NO_SIZE = BodySize(0, 0)


def facts_of(
    members: Mapping[str, Any], references: frozenset[str] = frozenset(), size: BodySize = NO_SIZE
) -> RequestFacts:
    """Return the facts in the members of a request.

    :param references: the stored objects that it refers to.
    :param size: of its body.
    """
    store = members.get("store")
    continues = members.get("previous_response_id") is not None or members.get("conversation") is not None
    return RequestFacts(
        label(members.get("model")),
        label(members.get("service_tier")),
        store=store if isinstance(store, bool) else None,
        is_background=members.get("background") is True,
        references=references,
        # The prompt of a legacy completion is text.
        continues=continues or isinstance(members.get("prompt"), dict),
        input_tokens=size.tokens,
        media=media_request(members, octets=size.octets),
        cache_key=label(members.get("prompt_cache_key")),
    )


class _NotReadable(ValueError):
    """Bodies of this media type are not read."""


class _Reader(Protocol):
    """Reads one kind of body."""

    def feed(self, block: bytes) -> None: ...

    def finish(self, size: BodySize) -> RequestFacts: ...


def _reader_for(media_type: str, find_references: FindReferences) -> _Reader:
    """:raises ValueError: see ``request_facts``; bodies of this type cannot be read."""
    kind, parameters = _parsed_media_type(media_type)
    if kind in ("", "application/json") or (kind.startswith("application/") and kind.endswith("+json")):
        if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
            raise NotStrictJson("The document is not UTF-8.")
        return _JsonReader(find_references=find_references)
    if kind == "multipart/form-data":
        return _MultipartReader(parameters)
    if kind == "application/x-www-form-urlencoded":
        return _UrlencodedReader()
    raise _NotReadable


@lru_cache(maxsize=64)
def _parsed_media_type(media_type: str) -> tuple[str, Mapping[str, str]]:
    return parameters_of(media_type)


class _JsonReader:
    """Parses a small document, and shortens a large one first.

    :param names: of the members that are wanted.
    """

    def __init__(
        self, names: Collection[str] = FACT_MEMBERS, *, find_references: FindReferences = no_references_in
    ) -> None:
        self._names = names
        self._find_references = find_references
        self._small = bytearray()
        self._shortener: DocumentShortener | None = None

    def feed(self, block: bytes) -> None:
        if self._shortener is not None:
            self._shortener.feed(block)
        elif len(self._small) + len(block) <= PARSED_LIMIT_BYTES:
            self._small += block
        else:
            self._shortener = DocumentShortener()
            self._shortener.feed(bytes(self._small))
            self._shortener.feed(block)
            self._small.clear()

    def document(self) -> Mapping[str, Any]:
        """Return the document.

        :raises NotStrictJson: see ``top_level_members``.
        """
        members = strict_object(bytes(self._small)) if self._shortener is None else self._shortener.finish()
        # Some parsers ignore the case of keys.
        if any(key not in self._names and key.casefold() in self._names for key in members):
            raise NotStrictJson("A key is repeated in another case.")
        return members

    def finish(self, size: BodySize = NO_SIZE) -> RequestFacts:
        document = self.document()
        return facts_of(document, self._find_references(document), size)


class _MultipartReader:
    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._form = MultipartReader(parameters, _WANTED_FIELDS)

    def feed(self, block: bytes) -> None:
        self._form.feed(block)

    def finish(self, size: BodySize) -> RequestFacts:
        return _facts_of_form(self._form.finish(), size)


class _UrlencodedReader:
    def __init__(self) -> None:
        self._form = bytearray()

    def feed(self, block: bytes) -> None:
        self._form += block
        if len(self._form) > URLENCODED_LIMIT_BYTES:
            raise FormError("The form is too large.")

    def finish(self, size: BodySize) -> RequestFacts:
        return _facts_of_form(urlencoded_fields(bytes(self._form), _WANTED_FIELDS), size)


def _facts_of_form(values: Mapping[str, str], size: BodySize) -> RequestFacts:
    named = values.get("model")
    if named is not None and not named.isascii():
        raise FormError("A model's name is not ASCII.")
    if "session" in values:
        session = _JsonReader()
        session.feed(values["session"].encode())
        in_session = session.finish().model
        if named is not None and in_session != named:
            raise FormError("The model is named twice.")
        named = in_session
    references = frozenset(value for name, value in values.items() if is_reference_field(name))
    return RequestFacts(
        label(named),
        references=references,
        input_tokens=size.tokens,
        media=media_request(values, octets=size.octets),
    )


def _decoded(blocks: Iterable[bytes], content_encoding: str) -> Iterator[bytes]:
    decoder = decoder_for(content_encoding)
    if decoder is None:
        yield from blocks
        return
    length = 0
    for block in blocks:
        for piece in decoder.decode(block):
            length += len(piece)
            if length > DECODED_LIMIT_BYTES:
                raise DecodingError("The decoded body is too large to read.")
            yield piece
