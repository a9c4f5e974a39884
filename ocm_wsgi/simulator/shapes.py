"""Plans for every kind of OpenAI error that Codex knows, in one table: :data:`SHAPES`.

On a WebSocket the same plans become ``error`` messages with that status; with ``dataclasses.replace(shape,
upgrade=True)`` they reject the opening handshake. Sources: CODEX.md sections 1.6, 4.2, 4.3 and 5.3.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ocm_wsgi.simulator.exchange import error_body
from ocm_wsgi.simulator.plans import Plan

#: Seconds from import until the reached limit resets.
RESETS_IN_SECONDS = 2 * 3600

_HTML = (("Content-Type", "text/html; charset=UTF-8"),)


def error(status: int, code: str | None, message: str, *, error_type: str = "invalid_request_error") -> Plan:
    """Return a plan for an error response in the platform's format."""
    return Plan(status=status, json=error_body(code, message, error_type=error_type))


def failed(code: str, message: str) -> Plan:
    """Return a plan for a stream that ends with ``response.failed``."""
    return Plan(terminal="failed", error=(code, message), usage=None)


def usage_limit_reached(*, resets_at: int, plan_type: str = "plus", window: str = "primary") -> Plan:
    """Return a plan for 429 ``usage_limit_reached``: a window of the subscription is used up.

    :param resets_at: Unix seconds.
    :param window: the window that is used up: ``primary`` (5 hours) or ``secondary`` (a week).
    """
    limits: dict[str, Any] = {
        "plan_type": plan_type,
        "primary": {"used_percent": 12, "window_minutes": 300, "reset_at": resets_at},
        "secondary": {"used_percent": 34, "window_minutes": 10080, "reset_at": resets_at},
    }
    limits[window]["used_percent"] = 100
    members = {
        "type": "usage_limit_reached",
        "message": "The usage limit has been reached",
        "plan_type": plan_type,
        "resets_at": resets_at,
        "resets_in_seconds": RESETS_IN_SECONDS,
    }
    fields = (("x-codex-active-limit", "codex"),)
    return Plan(status=429, json={"error": members}, fields=fields, rate_limits=limits)


# 400: Codex shows the body immediately and does not retry.
BAD_REQUEST = error(400, None, "Unsupported parameter: 'simulated'.")
CONTEXT_LENGTH_EXCEEDED = error(400, "context_length_exceeded", "Your input exceeds the context window of this model.")
CYBER_POLICY = error(400, "cyber_policy", "This request was refused by the policy on cyber security.")
BIO_POLICY = error(400, "bio_policy", "This request was refused by the policy on biology.")
INVALID_PROMPT = error(400, "invalid_prompt", "Invalid prompt: it was flagged as against our usage policy.")
INVALID_IMAGE = error(400, "invalid_value", "The image data you provided does not represent a valid image.")

# 401 and other refusals.
TOKEN_EXPIRED = Plan(
    status=401,
    json={
        "error": {
            "message": "Provided authentication token is expired. Please try signing in again.",
            "type": None,
            "code": "token_expired",
            "param": None,
        },
        "status": 401,
    },
)
TOKEN_INVALIDATED = Plan(
    status=401,
    json={
        "error": {
            "message": "Your authentication token has been invalidated. Please try signing in again.",
            "type": None,
            "code": "token_invalidated",
            "param": None,
        },
        "status": 401,
    },
)
# About the request and not the token: another token would be refused too.
UNAUTHORIZED = Plan(status=401, json={"detail": "Unauthorized"})
NOT_PERMITTED = error(401, "insufficient_permissions", "Missing scopes: api.simulated.")
INVALID_API_KEY = error(401, "invalid_api_key", "Incorrect API key provided: sk-****.")
PAYMENT_REQUIRED = Plan(status=402, json={"detail": {"code": "deactivated_workspace"}})
FORBIDDEN = Plan(status=403, json={"detail": "Forbidden"})
CLOUDFLARE_BLOCKED = Plan(
    status=403,
    body=b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title><h1>Sorry, you have been blocked</h1>",
    fields=(*_HTML, ("cf-ray", "simulated-FRA"), ("cf-mitigated", "challenge")),
)
NOT_FOUND = Plan(status=404, json={"detail": "Not Found"})
MODEL_NOT_FOUND = error(404, "model_not_found", "The model does not exist or you do not have access to it.")
PAYLOAD_TOO_LARGE = error(413, None, "The request body is too large.")
REDIRECT = Plan(status=307, body=b"", fields=(("Location", "/backend-api/codex/elsewhere"),))

# 429.
USAGE_LIMIT_REACHED = usage_limit_reached(resets_at=int(time.time()) + RESETS_IN_SECONDS)
WEEKLY_LIMIT_REACHED = usage_limit_reached(resets_at=int(time.time()) + RESETS_IN_SECONDS, window="secondary")
USAGE_NOT_INCLUDED = error(429, None, "To use Codex, upgrade your plan.", error_type="usage_not_included")
INSUFFICIENT_QUOTA = error(
    429, "insufficient_quota", "You exceeded your current quota.", error_type="insufficient_quota"
)
CREDIT_BALANCE_EXHAUSTED = error(429, "credit_balance_exhausted", "Your credit balance is exhausted.")
ORGANIZATION_SPEND_LIMIT_EXCEEDED = error(429, "organization_spend_limit_exceeded", "The organization's limit is met.")
PROJECT_SPEND_LIMIT_EXCEEDED = error(429, "project_spend_limit_exceeded", "The project's spend limit is met.")
RATE_LIMIT_EXCEEDED = error(
    429, "rate_limit_exceeded", "Rate limit reached. Please try again in 1s.", error_type="tokens"
)
RATE_LIMIT_WITH_RETRY_AFTER = Plan(
    status=429, json=RATE_LIMIT_EXCEEDED.json, fields=(("Retry-After", "1"), ("x-request-id", "req_simulated"))
)

# 5xx.
INTERNAL_SERVER_ERROR = error(500, None, "The server had an error.", error_type="server_error")
BAD_GATEWAY = Plan(status=502, body=b"<html><title>502 Bad Gateway</title></html>", fields=_HTML)
SERVICE_UNAVAILABLE = Plan(status=503, body=b"upstream connect error", fields=(("Content-Type", "text/plain"),))
SERVER_IS_OVERLOADED = error(
    503, "server_is_overloaded", "Our servers are currently overloaded.", error_type="service_unavailable_error"
)
SLOW_DOWN = error(503, "slow_down", "Slow down. Please try again in 1s.", error_type="service_unavailable_error")
GATEWAY_TIMEOUT = Plan(status=504, body=b"<html><title>504 Gateway Time-out</title></html>", fields=_HTML)

# 200, but unusable.
NOT_A_STREAM = Plan(json={"detail": "This is not an event stream."})
EMPTY_STREAM = Plan(body=b"", fields=(("Content-Type", "text/event-stream"),), framing="chunked")
NO_TERMINAL = Plan(terminal=None)
INCOMPLETE = Plan(terminal="incomplete")
STREAM_ERROR = Plan(terminal="error", error=("server_error", "The stream broke."))
FAILED_CONTEXT_LENGTH_EXCEEDED = failed("context_length_exceeded", "Your input exceeds the context window.")
FAILED_INSUFFICIENT_QUOTA = failed("insufficient_quota", "You exceeded your current quota.")
FAILED_USAGE_NOT_INCLUDED = failed("usage_not_included", "To use Codex, upgrade your plan.")
FAILED_SERVER_IS_OVERLOADED = failed("server_is_overloaded", "Our servers are currently overloaded.")
FAILED_SLOW_DOWN = failed("slow_down", "Slow down. Please try again in 1s.")
FAILED_RATE_LIMIT_EXCEEDED = failed("rate_limit_exceeded", "Rate limit reached. Please try again in 11ms.")
FAILED_CYBER_POLICY = failed("cyber_policy", "This request was refused by the policy on cyber security.")
FAILED_MISALIGNMENT = failed("misalignment_policy_violation", "This request was refused by policy.")
FAILED_INVALID_PROMPT = failed("invalid_prompt", "Invalid prompt.")
FAILED_SERVER_ERROR = failed("server_error", "An error occurred while processing your request.")

# On a WebSocket only: the client opens a new one and resends everything.
PREVIOUS_RESPONSE_NOT_FOUND = error(400, "previous_response_not_found", "Previous response not found.")
WEBSOCKET_CONNECTION_LIMIT_REACHED = error(
    400, "websocket_connection_limit_reached", "This WebSocket has reached its limit of 60 minutes."
)
UPGRADE_REQUIRED = Plan(status=426, json={"detail": "Upgrade Required"}, upgrade=True)

# For ``path="/oauth/token"``. The first three, any other 401, and 400 ``invalid_grant`` are permanent.
REFRESH_TOKEN_EXPIRED = error(401, "refresh_token_expired", "Your refresh token has expired. Please sign in again.")
REFRESH_TOKEN_REUSED = error(401, "refresh_token_reused", "Your refresh token has already been used.")
REFRESH_TOKEN_INVALIDATED = error(401, "refresh_token_invalidated", "Your refresh token was revoked.")
REFRESH_CODE_AS_STRING = Plan(status=401, json={"error": "refresh_token_expired"})
REFRESH_CODE_ON_TOP = Plan(status=401, json={"code": "Refresh_Token_Invalidated", "message": "Revoked."})
REFRESH_CODE_WITH_500 = error(500, "refresh_token_reused", "Your refresh token has already been used.")
REFRESH_UNAUTHORIZED = Plan(status=401, json={"detail": "Unauthorized"})
REFRESH_INVALID_GRANT = Plan(status=400, json={"error": "invalid_grant", "error_description": "No such grant."})
REFRESH_BAD_REQUEST = Plan(status=400, json={"error": "invalid_request"})
REFRESH_FORBIDDEN_HTML = CLOUDFLARE_BLOCKED
REFRESH_SERVER_ERROR = INTERNAL_SERVER_ERROR
REFRESH_UNAVAILABLE = SERVICE_UNAVAILABLE
REFRESH_BAD_JSON = Plan(body=b'{"access_token": "eyJ', fields=(("Content-Type", "application/json"),))
REFRESH_NOT_AN_OBJECT = Plan(json=["access_token"])
#: Closed before the token is consumed, and after it: in the second case the client loses its sign-in.
REFRESH_CUT_BEFORE = Plan(cut_at="rotation")
REFRESH_CUT_AFTER = Plan(cut_at="rotated")
REFRESH_WITHOUT_NEW_REFRESH_TOKEN = Plan(omit=("refresh_token",))
REFRESH_WITHOUT_ID_TOKEN = Plan(omit=("id_token",))
REFRESH_OF_ANOTHER_ACCOUNT = Plan(account="acct-stranger")

#: All of the above by name.
SHAPES: Mapping[str, Plan] = {name: value for name, value in globals().items() if isinstance(value, Plan)}
