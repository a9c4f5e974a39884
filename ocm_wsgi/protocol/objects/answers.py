"""Reads the stored objects that an answer of upstream names. Pure; no I/O.

Only IDs in the places where upstream puts them count, never those in texts or metadata, which the client chooses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ocm_wsgi.protocol.endpoints.endpoint import ObjectKind
from ocm_wsgi.protocol.http.content_coding import Decoder, DecodingError, decoder_for
from ocm_wsgi.protocol.objects.stored_object import NamedObject, named
from ocm_wsgi.protocol.responses.outcome import parse_json

#: The first event of a stream names the object. More octets than this are not searched for it.
SEARCHED_BYTES = 1024 * 1024

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def objects_in(document: Mapping[str, Any], creates: ObjectKind | None) -> list[NamedObject]:
    """Return the objects that an answer names: the one that was created, and those that belong to it.

    :param document: the answer, parsed.
    :param creates: the kind of the object that the request creates; ``None`` if it concerns an existing one.
    """
    return [*_created(document, creates), *_files_of(document), *_contents_of_response(document)]


def _created(document: Mapping[str, Any], creates: ObjectKind | None) -> list[NamedObject]:
    if creates is None or (creates == "response" and document.get("store") is False):
        return []
    if creates == "file" and document.get("object") == "upload":
        file = document.get("file")
        return named(file.get("id"), creates) if isinstance(file, dict) else []
    if creates == "thread" and "thread_id" in document:
        return named(document["thread_id"], creates)
    return named(document.get("id"), creates)


def _files_of(document: Mapping[str, Any]) -> Iterator[NamedObject]:
    """Yield the files that a batch or a job has written."""
    results = document.get("result_files")
    for file_id in (document.get("output_file_id"), document.get("error_file_id")):
        yield from named(file_id, "file")
    for file_id in results if isinstance(results, list) else ():
        yield from named(file_id, "file")


def _contents_of_response(document: Mapping[str, Any]) -> Iterator[NamedObject]:
    """Yield the items of a stored response, to which later requests may refer, and the containers that it has used."""
    output = document.get("output")
    if document.get("object") != "response" or document.get("store") is False or not isinstance(output, list):
        return
    for item in output:
        if isinstance(item, dict):
            yield from named(item.get("id"), "item")
            yield from named(item.get("container_id"), "container")


class FirstEvent:
    """Finds the object that a stream of Server-Sent Events names in one of its first events.

    :param creates: the kind of object.
    :param content_encoding: the value of ``Content-Encoding``, or ``""``.
    :ivar objects: what was found.
    :ivar is_over: whether the search has ended, successful or not.
    """

    def __init__(self, creates: ObjectKind, content_encoding: str = "") -> None:
        self.objects: list[NamedObject] = []
        self.is_over = False
        self._creates = creates
        self._buffer = bytearray()
        self._searched = 0
        self._decoder: Decoder | None = None
        try:
            self._decoder = decoder_for(content_encoding)
        except DecodingError:
            self.is_over = True

    def feed(self, data: bytes) -> None:
        """Search one read."""
        try:
            for piece in (data,) if self._decoder is None else self._decoder.decode(data):
                if not self.is_over:
                    self._search(piece)
        except DecodingError:
            self.is_over = True

    def _search(self, piece: bytes) -> None:
        self._buffer += piece
        self._searched += len(piece)
        start = 0
        for blank in _BLANK_LINE.finditer(self._buffer):
            document = _document_in(bytes(self._buffer[start : blank.start()]))
            self.objects = [] if document is None else _created(document, self._creates)
            # What names itself and is not stored needs no owner, so there is nothing more to wait for.
            if self.objects or (document is not None and "id" in document):
                self.is_over = True
                return
            start = blank.end()
        del self._buffer[:start]
        self.is_over = self._searched > SEARCHED_BYTES


def _document_in(event: bytes) -> Mapping[str, Any] | None:
    """Return the object that an event is about, or ``None``."""
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    document = parse_json(b"\n".join(lines)) if lines else None
    if not isinstance(document, dict):
        return None
    response = document.get("response")
    return response if isinstance(response, dict) else document
