"""Signing in, and the rate limit on failures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ocm_wsgi.config import UserConfig
from ocm_wsgi.errors import AuthenticationFailed, SignInThrottled
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.directory import UserDirectory
from ocm_wsgi.users.sign_ins import MAX_FAILURES, MAX_FAILURES_PER_ADDRESS, THROTTLE_SECONDS, SignIns
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def sign_ins(database: Database, configured: Callable[..., UserConfig], clock: Clock) -> SignIns:
    users = UserDirectory([configured("ann"), configured("bob")], database)
    return SignIns(database, users, clock)


def fail(sign_ins: SignIns, times: int, address: str, known_user: str = "") -> None:
    """Fail to sign in."""
    for _ in range(times):
        with pytest.raises(AuthenticationFailed):
            sign_ins.sign_in("no-token", address, known_user=known_user)


@pytest.mark.parametrize("address", ["192.0.2.1", ""])
def test_failures_of_an_address(sign_ins: SignIns, clock: Clock, address: str) -> None:
    """Too many of them keep everybody at that address out for a while, except known browsers of each user."""
    fail(sign_ins, MAX_FAILURES_PER_ADDRESS, address)
    with pytest.raises(SignInThrottled):
        sign_ins.sign_in("token-of-ann", address)
    with pytest.raises(SignInThrottled):
        sign_ins.sign_in("token-of-bob", address, known_user="ann")
    assert sign_ins.sign_in("token-of-ann", address, known_user="ann").name == "ann"
    assert sign_ins.sign_in("token-of-ann", "192.0.2.2").name == "ann"
    clock.now += THROTTLE_SECONDS + 1
    assert sign_ins.sign_in("token-of-ann", address).name == "ann"


def test_failures_of_many_addresses(sign_ins: SignIns) -> None:
    """Many strangers together keep nobody out who has signed in before."""
    for number in range(MAX_FAILURES // MAX_FAILURES_PER_ADDRESS):
        fail(sign_ins, MAX_FAILURES_PER_ADDRESS, f"192.0.2.{number}")
    with pytest.raises(SignInThrottled):
        sign_ins.sign_in("token-of-ann", "198.51.100.1")
    assert sign_ins.sign_in("token-of-ann", "198.51.100.1", known_user="ann").name == "ann"


def test_failures_of_known_browsers(sign_ins: SignIns) -> None:
    """Someone with a known browser's cookie has no more guesses than others, even from many addresses."""
    for number in range(MAX_FAILURES_PER_ADDRESS):
        fail(sign_ins, 1, f"192.0.2.{number}", known_user="ann")
    fail(sign_ins, MAX_FAILURES_PER_ADDRESS, "198.51.100.1", known_user="ann")
    with pytest.raises(SignInThrottled):
        sign_ins.sign_in("token-of-ann", "198.51.100.1", known_user="ann")
    assert sign_ins.sign_in("token-of-bob", "198.51.100.2", known_user="bob").name == "bob"
