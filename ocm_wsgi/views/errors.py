"""Turns every error into a response in OpenAI's format: ``{"error": {"type", "code", "message"}}``."""

from __future__ import annotations

import logging

from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException

from ocm_wsgi.errors import AuthenticationFailed, InternalError, NotFound, OcmError
from ocm_wsgi.protocol.http.bearer import CHALLENGE
from ocm_wsgi.telemetry.request_log import RequestLog

_log = logging.getLogger(__name__)


def error_response(error: OcmError) -> Response:
    """Return the response for one of our errors, with its fixed sentence but never its detail."""
    response = jsonify({"error": error.as_json()})
    response.status_code = error.status
    response.headers.update(error.response_fields)
    if isinstance(error, AuthenticationFailed):
        response.headers["WWW-Authenticate"] = CHALLENGE
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def init_app(app: Flask) -> None:
    """Register handlers that give every error this format."""
    app.register_error_handler(OcmError, _on_own_error)
    app.register_error_handler(HTTPException, _on_http_exception)
    app.register_error_handler(Exception, _on_unhandled_exception)


def _on_own_error(error: OcmError) -> Response:
    if error.detail:
        level = logging.WARNING if error.status >= 500 else logging.INFO
        _log.log(level, "%s: %s", error.message, error.detail)
    return _with_reason(error_response(error), error.code or error.error_type)


def _on_http_exception(exception: HTTPException) -> Response:
    if exception.code == NotFound.status:
        error: OcmError = NotFound("There is nothing here: the API's paths start with /v1/.")
    else:
        error = OcmError(exception.description or exception.name)
        error.status = exception.code or error.status
        error.error_type = "invalid_request_error" if error.status < 500 else error.error_type
    return _with_reason(error_response(error), exception.name)


def _on_unhandled_exception(exception: Exception) -> Response:
    _log.error("Unhandled exception", exc_info=exception)
    return _with_reason(error_response(InternalError()), type(exception).__name__)


def _with_reason(response: Response, end: str) -> Response:
    """Note the reason for the request's log line."""
    log: RequestLog | None = g.get("request_log")
    if log is not None:
        log.end = end
    return response
