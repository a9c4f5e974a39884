"""The OAuth issuer's endpoints: tokens, revocation, authorization in the browser, device codes."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from urllib.parse import parse_qs, urlencode, urlsplit

from ocm_wsgi.simulator.exchange import Event, Exchange, Response, error_response, json_response, planned_response
from ocm_wsgi.simulator.issuer import (
    Account,
    Authorization,
    RefreshRefused,
    challenge_of,
    token_response,
)
from ocm_wsgi.simulator.recording import Refresh

#: The token endpoint's errors for refresh tokens that are not live: status, code, message (CODEX.md 1.6).
REFUSALS = {
    "reused": (401, "refresh_token_reused", "Your refresh token has already been used to generate a new access token."),
    "expired": (401, "refresh_token_expired", "Your refresh token has expired. Please sign in again."),
    "invalidated": (401, "refresh_token_invalidated", "Your refresh token was revoked. Please sign in again."),
    "unknown": (401, "refresh_token_invalidated", "Your refresh token could not be validated."),
}


def token(exchange: Exchange) -> Response:
    """``POST /oauth/token``: refresh tokens as JSON, authorization codes as a form."""
    members = _members(exchange)
    grant_type = members.get("grant_type")
    if grant_type == "refresh_token":
        return _refresh(exchange, members)
    planned = planned_response(exchange.plan)
    if planned is not None:
        return planned
    if grant_type == "authorization_code":
        return _exchange_code(exchange, members)
    return json_response({"error": "unsupported_grant_type"}, status=400)


def _members(exchange: Exchange) -> dict[str, str]:
    if "json" in (exchange.head.field("Content-Type") or ""):
        return {name: str(value) for name, value in exchange.object().items()}
    return {name: values[0] for name, values in parse_qs(exchange.body.content.decode("latin-1")).items()}


def _refresh(exchange: Exchange, members: dict[str, str]) -> Response:
    presented = members.get("refresh_token", "")
    record = Refresh(
        refresh_token_sha256=hashlib.sha256(presented.encode()).hexdigest(),
        outcome="cut",
        at=exchange.world.journal.clock(),
        client_id=members.get("client_id"),
        reason=members.get("refresh_reason"),
    )
    try:
        exchange.pass_point("rotation")
        record, response = _rotate(exchange, presented, record)
    finally:
        exchange.world.journal.add_refresh(record)
    exchange.pass_point("rotated")
    return response


def _rotate(exchange: Exchange, presented: str, record: Refresh) -> tuple[Refresh, Response]:
    """Consume the refresh token, unless the plan refuses it; return the record and the response."""
    planned = planned_response(exchange.plan)
    if planned is not None:
        return replace(record, outcome="refused"), planned
    issuer, omit = exchange.world.issuer, exchange.plan.omit
    outcome = "kept" if "refresh_token" in omit else "rotated"
    try:
        check = issuer.check_refresh_token if outcome == "kept" else issuer.use_refresh_token
        account = check(presented)
    except RefreshRefused as exc:
        status, code, message = REFUSALS[exc.state]
        return replace(record, outcome=exc.state), error_response(status, code, message)
    if exchange.plan.account is not None:
        account = replace(account, account_id=exchange.plan.account)
    tokens = issuer.issue(account, issuer=exchange.world.url)
    members = token_response(tokens, expires_in=issuer.token_lifetime, omit=omit)
    return replace(record, outcome=outcome), json_response(members)


def _exchange_code(exchange: Exchange, members: dict[str, str]) -> Response:
    issuer = exchange.world.issuer
    account = issuer.use_code(
        members.get("code", ""),
        redirect_uri=members.get("redirect_uri", ""),
        verifier=members.get("code_verifier", ""),
    )
    if account is None:
        return json_response({"error": "invalid_grant", "error_description": "The code is not valid."}, status=400)
    if exchange.plan.account is not None:
        account = replace(account, account_id=exchange.plan.account)
    tokens = issuer.issue(account, issuer=exchange.world.url)
    return json_response(token_response(tokens, expires_in=issuer.token_lifetime, omit=exchange.plan.omit))


def revoke(exchange: Exchange) -> Response:
    """``POST /oauth/revoke`` (RFC 7009)."""
    exchange.world.issuer.revoke(_members(exchange).get("token", ""))
    return json_response({})


def authorize(exchange: Exchange) -> Response:
    """``GET /oauth/authorize``: the owner consents immediately, so the response redirects back with a code."""
    parameters = {name: values[0] for name, values in parse_qs(urlsplit(exchange.head.target).query).items()}
    redirect_uri = parameters.get("redirect_uri", "")
    if parameters.get("code_challenge_method") != "S256" or not parameters.get("code_challenge") or not redirect_uri:
        return error_response(400, "invalid_request", "PKCE with S256 and a redirect_uri are required.")
    account = Account(account_id=exchange.plan.account or Account.account_id)
    code = exchange.world.issuer.add_code(Authorization(account, redirect_uri, parameters["code_challenge"]))
    query = urlencode({"code": code, "state": parameters.get("state", "")})
    return Response(302, (("Location", f"{redirect_uri}?{query}"),))


def device_user_code(exchange: Exchange) -> Response:
    """``POST /api/accounts/deviceauth/usercode``."""
    device_auth_id, user_code = exchange.world.devices.start()
    return json_response({"device_auth_id": device_auth_id, "user_code": user_code, "interval": "0"})


def device_token(exchange: Exchange) -> Response:
    """``POST /api/accounts/deviceauth/token``: 403 while pending; the server creates the PKCE pair."""
    members = exchange.object()
    approved = exchange.world.devices.poll(str(members.get("device_auth_id")), str(members.get("user_code")))
    if approved is None:
        return error_response(400, "invalid_request", "There is no such device login.")
    if not approved:
        return error_response(403, "authorization_pending", "The device login is not approved yet.")
    verifier = secrets.token_urlsafe(48)
    account = Account(account_id=exchange.plan.account or Account.account_id)
    redirect_uri = f"{exchange.world.url}/deviceauth/callback"
    code = exchange.world.issuer.add_code(Authorization(account, redirect_uri, challenge_of(verifier)))
    return json_response(
        {"authorization_code": code, "code_challenge": challenge_of(verifier), "code_verifier": verifier}
    )


def device_page(_: Exchange) -> Response:
    """``GET /codex/device``: the page for people."""
    page = b"<!doctype html><title>Device login</title><p>This simulator approves every device automatically.</p>"
    return Response(200, (("Content-Type", "text/html; charset=utf-8"),), (Event(page),))
