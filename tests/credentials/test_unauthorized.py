"""A 401 of upstream is answered with a refresh only where the token is to blame, and only once."""

from __future__ import annotations

import contextlib
import json
import time

import pytest

from ocm_wsgi.credentials.unauthorized import HOLD_SECONDS
from ocm_wsgi.errors import CredentialRejected, OcmError, RequestUnauthorized
from tests.credentials.credential_home import Home


def test_replacement_is_not_repeated(home: Home) -> None:
    """If upstream also rejects tokens that were refreshed after a 401, no more refresh tokens are used up for an hour.

    This holds in every process of the service, and after a restart.
    """
    home.sign_in()
    second = home.source().replacement(home.source().current(), "token_invalidated")
    for source in (home.source(), home.source()):
        with pytest.raises(RequestUnauthorized, match=r"\(token_expired\), although that was refreshed recently"):
            source.replacement(second, "token_expired")
    assert home.outcomes() == ["rotated"]
    (store,) = home.state_path.glob("unauthorized-*.json")
    content = json.loads(store.read_text())
    assert content.keys() == {"fingerprint", "at"}
    for at, count in ((time.time() - HOLD_SECONDS + 60, 1), (time.time() - HOLD_SECONDS - 1, 2)):
        store.write_text(json.dumps({**content, "at": at}))
        with contextlib.suppress(RequestUnauthorized):
            home.source().replacement(second, "token_expired")
        assert len(home.outcomes()) == count


def test_replacement_is_not_repeated_without_state(home: Home) -> None:
    """Where that cannot be remembered on disk, each process remembers it for half a minute."""
    home.state_path.write_text("in the way")
    home.sign_in()
    source = home.source()
    second = source.replacement(source.current(), "token_invalidated")
    with pytest.raises(RequestUnauthorized):
        source.replacement(second, "token_invalidated")
    assert home.outcomes() == ["rotated"]
    home.monotonic += 30.1
    source.replacement(second, "token_invalidated")
    assert home.outcomes() == ["rotated", "rotated"]


@pytest.mark.parametrize("code", ["token_expired", "token_invalidated", "invalid_token", "expired_token"])
def test_replacement_where_the_token_is_to_blame(home: Home, code: str) -> None:
    """A 401 whose code blames the token is answered with a refresh."""
    home.sign_in()
    source = home.source()
    assert source.replacement(source.current(), code).access_token == home.access_token()
    assert home.outcomes() == ["rotated"]


@pytest.mark.parametrize(
    ("expires_in", "count"), [(3600, 0), (301, 0), (290, 1), pytest.param(-1, 1, id="expired-by-now")]
)
@pytest.mark.parametrize("code", [None, "insufficient_permissions"])
def test_replacement_where_the_request_is_to_blame(home: Home, code: str | None, expires_in: int, count: int) -> None:
    """Any other 401 uses up no refresh token, unless the token is near its end by its own account."""
    home.sign_in(expires_in=expires_in)
    source = home.source()
    rejected = source.peek()
    if count:
        assert source.replacement(rejected, code).access_token != rejected.access_token
    else:
        for _ in range(10):
            with pytest.raises(RequestUnauthorized) as refused:
                source.replacement(rejected, code)
            assert refused.value.status == 400
            assert (code or "credential of this service.") in refused.value.message
    assert len(home.outcomes()) == count


@pytest.mark.parametrize(
    ("code", "error"),
    [("invalid_api_key", CredentialRejected), ("x", RequestUnauthorized), (None, RequestUnauthorized)],
)
def test_replacement_of_an_api_key(home: Home, code: str | None, error: type[OcmError]) -> None:
    """The owner must replace an API key only if upstream says that it is to blame."""
    home.write({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-1"})
    source = home.source()
    with pytest.raises(error):
        source.replacement(source.current(), code)
