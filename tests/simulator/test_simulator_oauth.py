"""The OAuth issuer: refresh, rotation, refusals, and both sign-in flows."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest

from ocm_wsgi.simulator import Plan, Simulator
from ocm_wsgi.simulator.shapes import SHAPES
from tests.simulator.simulator_clients import Reply, call, owner_fields, sha256, take_turn

TOKEN = "/oauth/token"
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"


def refresh(sim: Simulator, refresh_token: str) -> Reply:
    members = {
        "client_id": CLIENT_ID,
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        "refresh_reason": "proactive_expiry",
    }
    return call(sim, "POST", TOKEN, body=members)


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    decoded = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert isinstance(decoded, dict)
    return decoded


def outcomes(sim: Simulator) -> list[str]:
    return [record.outcome for record in sim.refreshes]


def test_credential_is_what_codex_writes(sim: Simulator) -> None:
    """The content of ``auth.json`` has the members, order and claims of Codex 0.169."""
    credential = sim.credential(account="acct-1", expires_in=60, plan="pro", fedramp=True)
    assert list(credential) == ["auth_mode", "OPENAI_API_KEY", "tokens", "last_refresh"]
    assert (credential["auth_mode"], credential["OPENAI_API_KEY"]) == ("chatgpt", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", credential["last_refresh"])
    tokens = credential["tokens"]
    assert list(tokens) == [
        "id_token",
        "access_token",
        "refresh_token",
        "account_id",
        "oauth_provenance",
        "login_owner_id",
    ]
    assert tokens["oauth_provenance"] == {"issuer": sim.auth_base_url, "client_id": CLIENT_ID}
    auth = claims(tokens["id_token"])["https://api.openai.com/auth"]
    assert (auth["chatgpt_account_id"], auth["chatgpt_plan_type"], auth["chatgpt_account_is_fedramp"]) == (
        "acct-1",
        "pro",
        True,
    )
    access = claims(tokens["access_token"])
    assert access["exp"] - access["iat"] == 60
    assert access["https://api.openai.com/profile"]["email"] == claims(tokens["id_token"])["email"]


def test_last_refresh_can_be_given(sim: Simulator) -> None:
    """``last_refresh`` may be any string."""
    assert sim.credential(last_refresh="2020-01-01T00:00:00Z")["last_refresh"] == "2020-01-01T00:00:00Z"


def test_clock_decides_about_expiry() -> None:
    """Tokens are issued and expire by the simulator's own clock."""
    now = [1_000_000.0]
    with Simulator(clock=lambda: now[0]) as sim:
        fields = owner_fields(sim.credential(expires_in=10))
        target = "/backend-api/codex/models"
        assert call(sim, "GET", target, fields=fields).status == 200
        now[0] += 10
        assert call(sim, "GET", target, fields=fields).json["error"]["code"] == "token_expired"


def test_refresh_rotates_the_token(sim: Simulator) -> None:
    """A refresh issues new, working tokens and consumes the old refresh token."""
    sim.token_lifetime = 120
    old = sim.credential()["tokens"]
    new = refresh(sim, old["refresh_token"]).json
    assert new["refresh_token"] != old["refresh_token"]
    access = claims(new["access_token"])
    assert (access["exp"] - access["iat"], new["expires_in"]) == (120, 120)
    reply = take_turn(sim, fields={"Authorization": f"Bearer {new['access_token']}"})
    assert reply.status == 200
    again = refresh(sim, old["refresh_token"])
    assert (again.status, again.json["error"]["code"]) == (401, "refresh_token_reused")
    assert outcomes(sim) == ["rotated", "reused"]
    record = sim.refreshes[0]
    assert record.refresh_token_sha256 == sha256(old["refresh_token"].encode())
    assert (record.client_id, record.reason) == (CLIENT_ID, "proactive_expiry")


def test_refresh_token_works_once_under_concurrency(sim: Simulator) -> None:
    """Of twenty clients that use the same refresh token concurrently, one gets new tokens."""
    token = sim.credential()["tokens"]["refresh_token"]
    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(lambda _: refresh(sim, token).status, range(20)))
    assert sorted(statuses) == [200] + [401] * 19


def test_refresh_distinguishes_refusals(sim: Simulator) -> None:
    """An unknown, expired or revoked refresh token is refused with its own code."""
    expired, revoked, live = (sim.credential()["tokens"]["refresh_token"] for _ in range(3))
    sim.expire(expired)
    call(sim, "POST", "/oauth/revoke", body={"token": revoked, "token_type_hint": "refresh_token"})
    codes = [refresh(sim, token).json["error"]["code"] for token in ("rt_unknown", expired, revoked)]
    assert codes == ["refresh_token_invalidated", "refresh_token_expired", "refresh_token_invalidated"]
    sim.revoke_all()
    assert refresh(sim, live).json["error"]["code"] == "refresh_token_invalidated"
    assert outcomes(sim) == ["unknown", "expired", "invalidated", "invalidated"]


def test_expire_without_a_token_expires_all_access(sim: Simulator) -> None:
    """All access tokens can be expired together, while refresh tokens stay live."""
    credential = sim.credential()
    sim.expire()
    reply = call(sim, "GET", "/backend-api/codex/models", fields=owner_fields(credential))
    assert reply.json["error"]["code"] == "token_expired"
    assert refresh(sim, credential["tokens"]["refresh_token"]).status == 200


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith("REFRESH_")])
def test_refresh_obeys_the_shapes(sim: Simulator, name: str) -> None:
    """Each shape works at the token endpoint; refusals leave the refresh token live."""
    plan = SHAPES[name]
    sim.plan(plan, path=TOKEN)
    token = sim.credential()["tokens"]["refresh_token"]
    if plan.cut_at is not None:
        with pytest.raises(http.client.RemoteDisconnected):
            refresh(sim, token)
        used_up = plan.cut_at == "rotated"
    else:
        reply = refresh(sim, token)
        assert reply.status == (plan.status or 200)
        assert not set(plan.omit) & (set(reply.json) if plan.omit else set())
        used_up = reply.status == 200 and plan.json is None and plan.body is None and "refresh_token" not in plan.omit
    assert refresh(sim, token).status == (401 if used_up else 200)


def test_refresh_can_bring_another_account(sim: Simulator) -> None:
    """The new tokens can belong to an unexpected account."""
    sim.plan(SHAPES["REFRESH_OF_ANOTHER_ACCOUNT"], path=TOKEN)
    new = refresh(sim, sim.credential()["tokens"]["refresh_token"]).json
    for token in (new["id_token"], new["access_token"]):
        assert claims(token)["https://api.openai.com/auth"]["chatgpt_account_id"] == "acct-stranger"


@pytest.mark.parametrize(("point", "used_up"), [("rotation", False), ("rotated", True)])
def test_refresh_can_be_held_before_and_after_the_rotation(sim: Simulator, point: str, used_up: bool) -> None:
    """At the gate the token is still live, or already consumed, and there is no response yet."""
    gate = sim.gate().at(point)
    sim.plan(Plan(gate=gate), path=TOKEN)
    token = sim.credential()["tokens"]["refresh_token"]
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(refresh, sim, token)
        assert gate.reached.wait(30)
        assert refresh(sim, token).status == (401 if used_up else 200)
        assert not held.done()
        gate.release()
        assert held.result(10).status == (200 if used_up else 401)
    assert sorted(outcomes(sim)) == ["reused", "rotated"]


@pytest.mark.parametrize("body", [b"", b"grant_type=password", b"grant_type=authorization_code&code=x"])
def test_token_endpoint_refuses_other_grants(sim: Simulator, body: bytes) -> None:
    """Requests that are neither a refresh nor a known code are refused."""
    assert call(sim, "POST", TOKEN, body=body).status == 400


def _exchange(sim: Simulator, **members: str) -> Reply:
    form = urlencode({"grant_type": "authorization_code", "client_id": CLIENT_ID, **members})
    return call(sim, "POST", TOKEN, body=form, fields={"Content-Type": "application/x-www-form-urlencoded"})


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def test_browser_login_gives_tokens_for_a_code(sim: Simulator) -> None:
    """The authorization endpoint redirects back with code and state; the code is valid once, with its verifier."""
    redirect_uri = "http://127.0.0.1:1455/auth/callback"
    query = {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": redirect_uri,
        "code_challenge": _challenge("v" * 43),
        "code_challenge_method": "S256",
        "state": "st&te",
    }

    def authorize() -> str:
        reply = call(sim, "GET", f"/oauth/authorize?{urlencode(query)}")
        location = urlsplit(reply.field("Location") or "")
        answer = parse_qs(location.query)
        assert (reply.status, location.path, answer["state"]) == (302, "/auth/callback", ["st&te"])
        return answer["code"][0]

    code = authorize()
    reply = _exchange(sim, code=code, redirect_uri=redirect_uri, code_verifier="v" * 43)
    assert {"id_token", "access_token", "refresh_token"} <= set(reply.json)
    assert take_turn(sim, fields={"Authorization": f"Bearer {reply.json['access_token']}"}).status == 200
    assert _exchange(sim, code=code, redirect_uri=redirect_uri, code_verifier="v" * 43).status == 400
    assert _exchange(sim, code=authorize(), redirect_uri=redirect_uri, code_verifier="w" * 43).status == 400
    assert _exchange(sim, code=authorize(), redirect_uri="http://other/", code_verifier="v" * 43).status == 400


def test_authorize_needs_pkce(sim: Simulator) -> None:
    """Without an S256 challenge there is no code."""
    reply = call(sim, "GET", f"/oauth/authorize?redirect_uri={quote('http://127.0.0.1/')}")
    assert reply.status == 400


def test_device_login_is_pending_then_approved(sim: Simulator) -> None:
    """A device polls until the owner approves, and gets a code with the server's own verifier."""
    sim.device_polls = None
    started = call(sim, "POST", "/api/accounts/deviceauth/usercode", body={"client_id": CLIENT_ID}).json
    assert started["interval"] == "0"
    poll = {"device_auth_id": started["device_auth_id"], "user_code": started["user_code"]}
    target = "/api/accounts/deviceauth/token"
    assert [call(sim, "POST", target, body=poll).status for _ in range(3)] == [403, 403, 403]
    sim.approve_device(started["user_code"])
    approved = call(sim, "POST", target, body=poll).json
    assert approved["code_challenge"] == _challenge(approved["code_verifier"])
    reply = _exchange(
        sim,
        code=approved["authorization_code"],
        code_verifier=approved["code_verifier"],
        redirect_uri=f"{sim.auth_base_url}/deviceauth/callback",
    )
    assert reply.status == 200
    assert call(sim, "POST", target, body=poll).status == 400
    assert call(sim, "GET", "/codex/device").status == 200


def test_device_login_is_approved_automatically(sim: Simulator) -> None:
    """By default one poll finds the login pending and the next one approved."""
    assert sim.device_polls == 1
    started = call(sim, "POST", "/api/accounts/deviceauth/usercode", body={}).json
    target = "/api/accounts/deviceauth/token"
    assert [call(sim, "POST", target, body=started).status for _ in range(2)] == [403, 200]
