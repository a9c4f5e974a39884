"""Admission: models, limits at the edges of their windows, the reserve, and concurrent turns."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ocm_wsgi.admission.admission import is_allowed
from ocm_wsgi.admission.concurrency import Slots
from ocm_wsgi.errors import ModelNotAllowed, StateError, TooManyConcurrent, UsageLimitReached
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.quota.limits import parse
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.user import ANYONE, User
from tests.quota.subscription import HOURS, START, Shared

DAYS = 24 * HOURS
# The beginning of the day of ``START``, in UTC.
MIDNIGHT = START - START % DAYS


@pytest.fixture
def shared(tmp_path: Path, database: Database) -> Shared:
    return Shared(tmp_path, database)


def limited(*limits: str) -> User:
    return User("alice", limits=tuple(parse(limit) for limit in limits))


def refusal(shared: Shared, user: User) -> UsageLimitReached | None:
    try:
        shared.admission.admit(user, "gpt-5.5")()
    except UsageLimitReached as error:
        return error
    return None


@pytest.mark.parametrize(
    ("model", "patterns", "allowed"),
    [
        ("gpt-5.5", ("gpt-5*",), True),
        ("gpt-5", ("gpt-5*",), True),
        ("gpt-6-sol", ("gpt-5*", "gpt-6-s??"), True),
        ("gpt-6-sol", ("gpt-5*",), False),
        ("GPT-5", ("gpt-5*",), False),
        ("my-gpt-5", ("gpt-5*",), False),
        ("o4", ("o[34]",), True),
        ("", ("?*",), False),
        ("gpt-5\n", ("gpt-5",), False),
    ],
)
def test_is_allowed(model: str, patterns: tuple[str, ...], allowed: bool) -> None:
    """Patterns are shell patterns, which must match the whole name."""
    assert is_allowed(model, patterns) is allowed


def test_admit_models(shared: Shared) -> None:
    """A model that is not allowed is refused in one sentence that names it and those that are."""
    user = User("alice", models=("gpt-5*", "o4"))
    shared.admission.admit(user, "gpt-5.5")()
    with pytest.raises(ModelNotAllowed) as refused:
        shared.admission.admit(user, "gpt-6-sol")
    assert refused.value.status == 400
    assert refused.value.message == "You may not use the model 'gpt-6-sol'; you may use: gpt-5*, o4."
    with pytest.raises(ModelNotAllowed, match="Cannot determine"):
        shared.admission.admit(user, None)
    with pytest.raises(ModelNotAllowed) as refused:
        shared.admission.admit(user, "x\n" * 10_000)
    assert len(refused.value.message) < 300
    assert "\n" not in refused.value.message
    shared.admission.admit(User("bob"), None)()


@pytest.mark.parametrize(
    ("limit", "turn", "another"),
    [
        ("2 requests per day", {}, {}),
        ("1000 tokens per day", {"tokens": 999}, {"tokens": 1}),
        ("1 USD per day", {"cost_usd": 0.999999}, {"cost_usd": 0.000001}),
    ],
)
def test_limit_reached(shared: Shared, limit: str, turn: dict[str, float], another: dict[str, float]) -> None:
    """A request is refused once the whole amount is used, and not before; other users' are not."""
    user = limited(limit)
    shared.record("alice", **turn)  # type: ignore[arg-type]
    assert refusal(shared, user) is None
    shared.record("alice", **another)  # type: ignore[arg-type]
    assert refusal(shared, user) is not None
    assert refusal(shared, User("bob", limits=user.limits)) is None


def test_limit_text(shared: Shared) -> None:
    """The refusal names the limit and when it resets, and has what Codex needs for its own message."""
    shared.record("alice")
    error = refusal(shared, limited("1 request per day"))
    assert error is not None
    assert (error.status, error.error_type) == (429, "usage_limit_reached")
    assert error.message == "You have used up your limit of 1 request per day. It resets at 2027-01-16 00:00:00 UTC."
    assert error.members == {
        "plan_type": "business",
        "resets_at": MIDNIGHT + DAYS,
        "resets_in_seconds": MIDNIGHT + DAYS - START,
    }
    advice = error.response_fields["x-codex-promo-message"]
    assert advice == "Your limit here is 1 request per day; ask the owner of the service for more"


def test_limit_of_longest(shared: Shared) -> None:
    """If several limits are reached, the refusal names the one that resets last."""
    shared.record("alice")
    error = refusal(shared, limited("1 request per day", "1 request per month", "1 request per 5h"))
    assert error is not None
    assert "per month" in error.message


@pytest.mark.parametrize(("ago", "counts"), [(START - MIDNIGHT, True), (START - MIDNIGHT + 1, False)])
def test_limit_counts_from_the_edge(shared: Shared, ago: float, counts: bool) -> None:
    """Usage counts from the first second of the window, also for a limit that was added today."""
    shared.record("alice", ago=ago)
    assert (refusal(shared, limited("1 request per day")) is not None) is counts


def test_limit_ends_with_the_second(shared: Shared) -> None:
    """A limit applies until the last second of its window, and no longer."""
    user = limited("1 request per day")
    shared.record("alice")
    shared.clock.now = MIDNIGHT + DAYS - 0.001
    assert refusal(shared, user) is not None
    shared.clock.now = MIDNIGHT + DAYS
    assert refusal(shared, user) is None


@pytest.mark.parametrize("period", ["5h", "week"])
def test_limit_follows_upstream(shared: Shared, period: str) -> None:
    """Limits per 5 hours and per week reset when upstream's window does."""
    user, end = limited(f"1 request per {period}"), START + 4321
    shared.note_windows(five_hours=(1.0, end), week=(1.0, end))
    shared.record("alice")
    shared.clock.now = end - 1
    error = refusal(shared, user)
    assert error is not None
    assert error.members["resets_at"] == end
    shared.clock.now = end
    assert refusal(shared, user) is None


def test_limit_of_percent(shared: Shared) -> None:
    """A percentage of the week is the part of it that the user's cost has used."""
    user, end = limited("10% per week"), START + 3 * DAYS
    bob = User("bob", limits=limited("50% per day", "50% per 5h").limits)
    shared.note_windows(week=(0.0, end))
    for percent in range(1, 41):
        # A dollar uses half a percent, and alice has a quarter of the usage.
        shared.clock.now += 60
        shared.record("alice", cost_usd=0.5)
        shared.record("bob", cost_usd=1.5)
        shared.clock.now += 1
        shared.note_windows(week=(float(percent), end))
        assert (refusal(shared, user) is not None) is (percent >= 40)
        assert refusal(shared, bob) is None
    found = shared.window_history.shares(DEFAULT_CREDENTIAL, "week")
    assert found is not None
    assert found[1].percents == pytest.approx({"alice": 10, "bob": 30})
    assert shared.admission.limit_usage(user)[0].used == pytest.approx(10)


def test_percent_after_rollover(shared: Shared) -> None:
    """When upstream's week is over, a percentage resets, before and after upstream reports the new week."""
    user, end = limited("10% per week"), START + 1000
    shared.note_windows(week=(0.0, end))
    shared.record("alice", cost_usd=5)
    shared.clock.now += 1
    shared.note_windows(week=(50.0, end))
    assert refusal(shared, user) is not None
    shared.clock.now = end
    assert refusal(shared, user) is None
    shared.record("alice", cost_usd=0.5)
    shared.clock.now += 10
    shared.note_windows(week=(5.0, end + 7 * DAYS))
    assert refusal(shared, user) is None
    assert float(shared.admission.limit_usage(user)[0].used) == pytest.approx(5)
    shared.record("alice", cost_usd=0.7)
    assert refusal(shared, user) is not None


@pytest.mark.parametrize(
    ("used_percent", "user", "refused"),
    [
        (84.0, User("alice"), False),
        (85.0, User("alice"), True),
        (85.0, ANYONE, True),
        (99.0, User("owner", admin=True), False),
    ],
)
@pytest.mark.parametrize("key", ["OCM_RESERVE_5H", "OCM_RESERVE_WEEKLY"])
def test_reserve(tmp_path: Path, database: Database, key: str, used_percent: float, user: User, refused: bool) -> None:
    """The last percents of a window are reserved for admins, until upstream's window ends."""
    shared, end = Shared(tmp_path, database, {key: "15"}), START + 1000
    assert refusal(shared, user) is None
    shared.note_windows(**{"five_hours" if key.endswith("5H") else "week": (used_percent, end)})
    error = refusal(shared, user)
    assert (error is not None) is refused
    if error is not None:
        assert "reserved for its owner" in error.message
        assert error.members["resets_at"] == end
    shared.clock.now = end
    assert refusal(shared, user) is None


def test_reserve_of_fractions(tmp_path: Path, database: Database) -> None:
    """A rise into the reserve counts, however small it is."""
    shared = Shared(tmp_path, database, {"OCM_RESERVE_WEEKLY": "15"})
    shared.note_windows(week=(84.95, START + 1000))
    assert refusal(shared, User("alice")) is None
    shared.note_windows(week=(85.0, START + 1000))
    assert refusal(shared, User("alice")) is not None


def test_admit_without_state(tmp_path: Path) -> None:
    """While the state cannot be read, users with limits are refused, and others are not."""
    shared = Shared(tmp_path, Database("sqlite:////dev/null/ocm.db"), {"OCM_RESERVE_5H": "15"})
    with pytest.raises(StateError, match="limits cannot be checked") as refused:
        shared.admission.admit(limited("1 request per day"), "gpt-5.5")
    assert refused.value.status == 503
    assert refused.value.retry_after_seconds is not None
    shared.admission.admit(User("bob"), "gpt-5.5")()


def test_max_concurrent(shared: Shared) -> None:
    """Concurrent turns are limited across instances; one that has ended makes room."""
    user = User("alice", max_concurrent=2)
    first = shared.admission.admit(user, None)
    other = Shared(shared.folder, shared.database)
    second = other.admission.admit(user, None)
    with pytest.raises(TooManyConcurrent, match="2 turns in progress") as refused:
        shared.admission.admit(user, None)
    assert refused.value.status == 429
    assert refused.value.retry_after_seconds == 5
    shared.admission.admit(User("bob", max_concurrent=1), None)()
    first()
    first()
    shared.admission.admit(user, None)()
    second()


def test_max_concurrent_without_state(tmp_path: Path) -> None:
    """While turns cannot be counted, users whose concurrency is limited are refused."""
    (tmp_path / "slots").write_text("in the way")
    with pytest.raises(StateError, match="cannot be counted"):
        Slots(tmp_path / "slots").take("alice", 1)


_HOLDER = """
import sys
from pathlib import Path
from ocm_wsgi.admission.concurrency import Slots
slot = Slots(Path(sys.argv[1])).take("../al ice/", 1)
print("taken" if slot else "refused", flush=True)
sys.stdin.read()
"""


def test_slots_survive_kill(tmp_path: Path) -> None:
    """A slot is held by a process, whatever the user's name, and is free again when the process is killed."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        assert Slots(tmp_path).take("../al ice/", 1) is None
        holder.kill()
        holder.wait()
        slot = Slots(tmp_path).take("../al ice/", 1)
        assert slot is not None
        slot.release()
    assert all(path.parent.parent == tmp_path for path in tmp_path.rglob("0"))


def test_admit_cost(shared: Shared) -> None:
    """With four limits, a check takes far less CPU time than anyone would notice, however large the ledger is."""
    for number in range(300):
        shared.record("alice", cost_usd=0.01, ago=number * 100)
    shared.note_windows(five_hours=(3.0, START + 1000), week=(2.0, START + 1000))
    user = limited("99% per week", "99 USD per month", "99% per 5h", "9M tokens per day")
    times = []
    for _ in range(200):
        begin = time.thread_time()
        shared.admission.admit(user, "gpt-5.5")()
        times.append(time.thread_time() - begin)
    assert sorted(times)[100] < 0.005


OWNERS = {
    "nobody-past-us": lambda random_: 0.0,
    "owner-past-us": lambda random_: random_.uniform(2, 8) if random_.random() < 0.03 else 0.0,
}


@pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS.keys())
def test_shares_through_windows(shared: Shared, owner: object) -> None:
    """As windows fill and roll over, each user's percentage is correct within one point, with the real ledger."""
    random_ = random.Random(3)
    assert callable(owner)
    for _ in range(2):
        true = dict.fromkeys(("alice", "bob", "carol"), 0.0)
        outside, end = 0.0, int(shared.clock.now) + 5 * HOURS
        while (used := outside + sum(true.values())) < 95:
            shared.clock.now += 60
            shared.note_windows(five_hours=(float(int(used)), end + random_.choice((-1, 0, 1))))
            user = random_.choices(list(true), (6, 3, 1))[0]
            percent = random_.uniform(0.3, 2)
            shared.clock.now += 20
            shared.record(user, cost_usd=percent * 0.7, ago=20, duration=19)
            true[user] += percent
            outside += owner(random_)
        found = shared.window_history.shares(DEFAULT_CREDENTIAL, "5h")
        assert found is not None
        assert max(abs(found[1].percents[user] - true[user]) for user in true) < 1
        shared.clock.now = max(end, shared.clock.now) + 100
