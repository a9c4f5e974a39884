"""Lists of what OpenAI stores, as far as it is the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, jsonify

from ocm_wsgi.errors import ListRefused
from ocm_wsgi.ownership.access import Access
from ocm_wsgi.ownership.lists import owned_list
from ocm_wsgi.pools.dispatch import Dispatch
from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.protocol.http.targets import ApiTarget
from ocm_wsgi.protocol.responses.outcome import parse_json
from ocm_wsgi.service import Service
from ocm_wsgi.upstream.client import ClientRequest

#: The largest page of upstream's that is read.
MAX_PAGE_BYTES = 32 * 1024 * 1024

# A page must arrive whole and unencoded.
_NOT_SENT = frozenset({"accept-encoding", "if-modified-since", "if-none-match", "range"})


def owned_list_response(
    service: Service,
    dispatch: Dispatch,
    access: Access,
    target: ApiTarget,
    fields: Fields,
) -> Response:
    """Return a page of the user's own objects.

    :raises OcmError: upstream cannot be asked, or its list cannot be read.
    """
    sent = [(name, value) for name, value in fields if name.lower() not in _NOT_SENT]
    sent.append(("accept-encoding", "identity"))

    def fetch(query: str) -> Mapping[str, Any]:
        page = ApiTarget(target.path, f"?{query}")
        upstream = dispatch.open(ClientRequest("GET", page, sent, None))
        try:
            if upstream.status != 200:
                raise ListRefused(f"OpenAI answers the request for the list with status {upstream.status}.")
            body = bytearray()
            for piece in upstream.pieces():
                body += piece
                if len(body) > MAX_PAGE_BYTES:
                    raise ListRefused("A page of OpenAI's list is too large to pick yours out of.")
        finally:
            upstream.close()
        document = parse_json(body)
        return document if isinstance(document, dict) else {}

    assert access.lists is not None
    own_ids = service.owners.ids_of(access.user, access.lists)
    return jsonify(owned_list(own_ids, target.query.removeprefix("?"), fetch))
