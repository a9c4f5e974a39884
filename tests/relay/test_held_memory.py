"""What WebSockets hold is bounded for each user and for the worker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.relay.held_memory import FREE_BYTES, HeldMemory


def test_limit_of_a_user() -> None:
    """All sockets of a user count together; shrinking is always possible, and makes room."""
    memory = HeldMemory(user_limit=1000, worker_limit=10_000)
    first, second, other = memory.share("alice"), memory.share("alice"), memory.share("bob")
    assert first.hold(FREE_BYTES + 600)
    assert other.hold(FREE_BYTES + 1000)
    assert not second.hold(FREE_BYTES + 401)
    assert second.hold(FREE_BYTES + 400)
    assert first.hold(FREE_BYTES)
    assert second.hold(FREE_BYTES + 1000)
    assert first.hold(FREE_BYTES)
    assert not first.hold(FREE_BYTES + 1)


def test_limit_of_a_worker() -> None:
    """All users count together, except for what is free."""
    memory = HeldMemory(user_limit=1000, worker_limit=1500)
    assert memory.share("alice").hold(FREE_BYTES + 1000)
    bob = memory.share("bob")
    assert not bob.hold(FREE_BYTES + 501)
    assert bob.hold(FREE_BYTES + 500)
    assert memory.share("carol").hold(FREE_BYTES)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2 * FREE_BYTES)), max_size=30))
def test_nothing_remains(changes: list[tuple[int, int]]) -> None:
    """When all sockets have ended, nothing is counted."""
    memory = HeldMemory(user_limit=FREE_BYTES, worker_limit=2 * FREE_BYTES)
    shares = [memory.share(f"user{number % 2}") for number in range(4)]
    for number, size in changes:
        shares[number].hold(size)
    for share in shares:
        share.hold(0)
    assert (memory.total, dict(memory._by_user)) == (0, {})
