"""Every error a client gets, in OpenAI's shape: ``{"error": {"type", "code", "message"}}``."""

from __future__ import annotations

import logging

from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException

from ocm_wsgi.errors import AuthenticationFailed, NotFound, OcmError
from ocm_wsgi.protocol.http.bearer import CHALLENGE
from ocm_wsgi.telemetry.request_log import RequestLog

logger = logging.getLogger(__name__)


def error_response(error: OcmError) -> Response:
    """The response for one of our errors. Holds its fixed sentence, never its detail."""
    response = jsonify({"error": error.as_json()})
    response.status_code = error.status
    response.headers.update(error.response_fields)
    if isinstance(error, AuthenticationFailed):
        response.headers["WWW-Authenticate"] = CHALLENGE
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def init_app(app: Flask) -> None:
    """Let the application answer every failure in this shape."""
    app.register_error_handler(OcmError, _on_own_error)
    app.register_error_handler(HTTPException, _on_http_exception)
    app.register_error_handler(Exception, _on_defect)


def _on_own_error(error: OcmError) -> Response:
    if error.detail:
        level = logging.WARNING if error.status >= 500 else logging.INFO
        logger.log(level, "%s: %s", error.message, error.detail)
    return _noted(error_response(error), error.code or error.error_type)


def _on_http_exception(exception: HTTPException) -> Response:
    if exception.code == NotFound.status:
        error: OcmError = NotFound("There is nothing here: the API's paths start with /v1/.")
    else:
        error = OcmError(exception.description or exception.name)
        error.status = exception.code or error.status
        error.error_type = "invalid_request_error" if error.status < 500 else error.error_type
    return _noted(error_response(error), exception.name)


def _on_defect(exception: Exception) -> Response:
    logger.error("a defect of this service", exc_info=exception)
    return _noted(error_response(OcmError("This service failed. Its log says why.")), type(exception).__name__)


def _noted(response: Response, end: str) -> Response:
    """Say in the request's log line why it ended so."""
    log: RequestLog | None = g.get("request_log")
    if log is not None:
        log.end = end
    return response
