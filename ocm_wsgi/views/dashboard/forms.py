"""Reads the forms of the dashboard, which strangers can submit too: the sign-in is one."""

from __future__ import annotations

from flask import request
from werkzeug.datastructures import MultiDict

from ocm_wsgi.errors import BadRequest, BodyTooLarge, BodyTruncated
from ocm_wsgi.gateway.environ import announced_length
from ocm_wsgi.gateway.request_body import limit_arrival
from ocm_wsgi.protocol.http.form_arrival import FORM_SECONDS, MAX_FORM_BYTES, MAX_FORM_FIELDS


def read_form() -> MultiDict[str, str]:
    """Read the form of the current request, within limits that no browser with one of our forms exceeds.

    Nothing is read of a body that is too large, or of one whose size or format is another than a browser's: Werkzeug
    would write the files of a multipart form to disk.

    :raises BodyTooLarge: it is larger than 64 KiB or has more than 50 fields.
    :raises BodyTruncated: the client disconnected before its end, or took longer than 5 s.
    :raises BadRequest: it is no URL-encoded form of a known size.
    """
    length = announced_length(request.environ)
    if request.mimetype != "application/x-www-form-urlencoded" or length is None or "Expect" in request.headers:
        raise BadRequest("A form must be URL-encoded and have a Content-Length, and must not wait for a response.")
    if length > MAX_FORM_BYTES:
        raise _too_large()
    limit_arrival(request.environ["wsgi.input"], FORM_SECONDS)
    request.max_content_length = MAX_FORM_BYTES
    try:
        content = request.get_data()
    except OSError as exc:
        raise _truncated() from exc
    if len(content) < length:
        raise _truncated()
    if content.count(b"&") >= MAX_FORM_FIELDS:
        raise _too_large()
    return request.form


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"A form has at most {MAX_FORM_FIELDS} fields and {MAX_FORM_BYTES // 1024} KiB.")


def _truncated() -> BodyTruncated:
    return BodyTruncated("The form did not arrive in full.")
