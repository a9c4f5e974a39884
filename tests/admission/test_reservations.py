"""Turns in progress count towards limits: at once, in several processes, and when one of them is killed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocm_wsgi.accounting.queries import TurnUse
from ocm_wsgi.admission.concurrency import Slot
from ocm_wsgi.admission.expectations import CACHED_SECONDS, UNKNOWN_TURN, Expectations, typical, with_input
from ocm_wsgi.admission.reservations import Reservation, Reservations
from ocm_wsgi.errors import LimitUnmeasurable, StateError, TooManyConcurrent, UsageLimitReached
from ocm_wsgi.quota.limits import Totals, parse
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.user import User
from tests.conftest import REPOSITORY
from tests.quota.subscription import HOURS, START, Shared

DAYS = 24 * HOURS
ONE = Reservation(1.5, Totals(1, 100, 7))


@pytest.fixture
def shared(tmp_path: Path, database: Database) -> Shared:
    return Shared(tmp_path, database)


def limited(*limits: str, max_concurrent: int | None = None) -> User:
    return User("alice", limits=tuple(parse(limit) for limit in limits), max_concurrent=max_concurrent)


def test_take_returns_others(tmp_path: Path) -> None:
    """Each turn sees those of its user that are in progress, with what is reserved for them."""
    first, others = Reservations(tmp_path).take("alice", ONE)
    assert others == []
    second, others = Reservations(tmp_path).take("alice", Reservation(2.5, Totals(1, 2**70, 0)))
    assert others == [ONE]
    assert Reservations(tmp_path).take("bob", ONE)[1] == []
    third, others = Reservations(tmp_path).take("alice", ONE)
    assert sorted(others, key=lambda other: other.started_at) == [ONE, Reservation(2.5, Totals(1, 2**62, 0))]
    for slot in (first, second, third, first):
        slot.release()
    assert Reservations(tmp_path).take("alice", ONE)[1] == []


def test_turns_are_registered_one_after_the_other(tmp_path: Path) -> None:
    """While a turn is being registered, others of its user wait, so that one of two sees the other."""
    reservations = Reservations(tmp_path)
    reservations.take("alice", ONE)[0].release()
    (path,) = tmp_path.rglob("lock")
    is_registered = threading.Event()

    def take() -> None:
        reservations.take("alice", ONE)[0].release()
        is_registered.set()

    with path.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=take)
        thread.start()
        reservations.take("bob", ONE)[0].release()
        assert not is_registered.wait(0.3)
    assert is_registered.wait(30)
    thread.join()


def test_files_are_bounded_and_private(tmp_path: Path) -> None:
    """After a burst of turns, few files are left, and only their owner can read them."""
    reservations = Reservations(tmp_path / "state" / "reservations")
    slots = [reservations.take("../al ice/", ONE)[0] for _ in range(40)]
    (folder,) = (tmp_path / "state" / "reservations").iterdir()
    assert len(list(folder.iterdir())) == 41
    for slot in slots:
        slot.release()
    reservations.take("../al ice/", ONE)[0].release()
    assert len(list(folder.iterdir())) < 12
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_take_without_content(tmp_path: Path) -> None:
    """A reservation that could not be written, because the disk is full, counts like that of an unknown turn."""
    slot, _ = Reservations(tmp_path).take("alice", ONE)
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]
    os.truncate(path, 0)
    ((other),) = Reservations(tmp_path).take("alice", ONE)[1]
    assert other.expected == UNKNOWN_TURN
    assert other.started_at > time.time()
    slot.release()


def test_take_without_state(tmp_path: Path) -> None:
    """While turns cannot be counted, users with limits are refused."""
    (tmp_path / "reservations").write_text("in the way")
    with pytest.raises(StateError, match="cannot be counted"):
        Reservations(tmp_path / "reservations").take("alice", ONE)


def test_release_by_two_threads(tmp_path: Path) -> None:
    """A slot that two threads release at once closes its file once, and never one that another turn has opened."""
    for _ in range(200):
        read_end, write_end = os.pipe()
        slot = Slot(read_end)
        barrier = threading.Barrier(2)

        def release(slot: Slot = slot, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            slot.release()

        threads = [threading.Thread(target=release) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.close(write_end)


_HOLDER = """
import sys
from pathlib import Path
from ocm_wsgi.admission.reservations import Reservation, Reservations
from ocm_wsgi.quota.limits import Totals
slots = [Reservations(Path(sys.argv[1])).take("alice", Reservation(1.5, Totals(1, 100, 7))) for _ in range(3)]
print("taken", flush=True)
sys.stdin.read()
"""


def test_reservations_survive_no_kill(tmp_path: Path) -> None:
    """The reservations of a process end when it is killed."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        slot, others = Reservations(tmp_path).take("alice", ONE)
        assert others == [ONE] * 3
        slot.release()
        holder.kill()
        holder.wait()
    assert Reservations(tmp_path).take("alice", ONE)[1] == []


@contextmanager
def in_progress(shared: Shared, user: User, count: int = 1) -> Iterator[None]:
    """Hold some turns in progress."""
    releases = [shared.admission.admit(user, "gpt-5.5") for _ in range(count)]
    yield
    for release in releases:
        release()


@pytest.mark.parametrize(
    ("limit", "usual", "used", "room"),
    [
        # Requests in progress count one each.
        pytest.param("3 requests per day", {}, 2, 1, id="requests"),
        pytest.param("1 request per day", {}, 0, 1, id="one-request"),
        # Three turns of 100 are used; with five in progress all of 800 are used up.
        pytest.param("800 tokens per day", {"tokens": 100}, 3, 5, id="tokens"),
        pytest.param("801 tokens per day", {"tokens": 100}, 3, 6, id="a-token-more"),
        pytest.param("1 USD per day", {"cost_usd": 0.25}, 2, 2, id="usd"),
        # Nothing is known of the user's turns.
        pytest.param("10 tokens per day", {}, 0, 1, id="unknown-tokens"),
        pytest.param("120000 tokens per week", {}, 0, 3, id="more-unknown-tokens"),
        pytest.param("0.3 USD per week", {}, 0, 2, id="unknown-usd"),
    ],
)
def test_turns_in_progress_count(shared: Shared, limit: str, usual: dict[str, float], used: int, room: int) -> None:
    """As many turns are admitted at once as the limit has room for, and when one has ended, the next."""
    user = limited(limit)
    for _ in range(used):
        shared.record("alice", **usual)  # type: ignore[arg-type]
    with in_progress(shared, user, room):
        with pytest.raises(TooManyConcurrent, match="may use up the rest of your limit") as refused:
            shared.admission.admit(user, "gpt-5.5")
        assert (refused.value.status, refused.value.retry_after_seconds) == (429, 5)
        other = Shared(shared.folder, shared.database)
        with pytest.raises(TooManyConcurrent):
            other.admission.admit(user, "gpt-5.5")
        shared.admission.admit(User("bob", limits=user.limits), "gpt-5.5")()
    shared.admission.admit(user, "gpt-5.5")()


def test_refused_turns_reserve_nothing(shared: Shared) -> None:
    """A turn that was refused leaves nothing in progress, whatever refused it."""
    user = limited("2 requests per day", max_concurrent=1)
    first = shared.admission.admit(user, "gpt-5.5")
    for _ in range(5):
        with pytest.raises(TooManyConcurrent):
            shared.admission.admit(user, "gpt-5.5")
    first()
    for _ in range(2):
        shared.record("alice")
    for _ in range(5):
        with pytest.raises(UsageLimitReached):
            shared.admission.admit(user, "gpt-5.5")
    wider = limited("4 requests per day")
    with in_progress(shared, wider), in_progress(shared, wider):
        pass


@pytest.mark.parametrize(
    ("uses", "model", "expected"),
    [
        ([], "a", UNKNOWN_TURN),
        ([("a", 0, 0)] * 3, "a", UNKNOWN_TURN),
        ([("a", 10, 0), ("a", 0, 0), ("a", 15, 3)], "a", Totals(1, 13, 2)),
        ([("a", 10, 1), ("b", 1000, 9), ("a", 20, 1)], "a", Totals(1, 15, 1)),
        ([("a", 10, 1), ("b", 1000, 9), ("a", 20, 1)], "c", Totals(1, 344, 4)),
        ([("a", 10, 1), ("b", 20, 1)], None, Totals(1, 15, 1)),
        ([("a", 0, 5)], "a", Totals(1, 0, 5)),
        ([("a", 10, 1)] * 20 + [("a", 999, 99)] * 5, "a", Totals(1, 10, 1)),
    ],
)
def test_typical(uses: list[tuple[str, int, int]], model: str | None, expected: Totals) -> None:
    """A turn usually takes the mean of the last ones of its model, else of all; those without usage do not count."""
    assert typical([TurnUse(*use) for use in uses], model) == expected


def test_expectations_are_read_again(shared: Shared) -> None:
    """The first turn of a user counts at once, later ones within seconds, and other users' never."""
    now = [0.0]
    expectations = Expectations(shared.database, lambda: now[0])
    shared.record("bob", tokens=900)
    assert expectations.expected("alice", "gpt-5.5") == UNKNOWN_TURN
    shared.record("alice", tokens=10)
    assert expectations.expected("alice", "gpt-5.5").tokens == 10
    shared.record("alice", tokens=20)
    now[0] = CACHED_SECONDS - 0.1
    assert expectations.expected("alice", "gpt-5.5").tokens == 10
    now[0] = CACHED_SECONDS
    assert expectations.expected("alice", "gpt-5.5").tokens == 15


@pytest.mark.parametrize(
    ("usual", "input_tokens", "expected"),
    [
        (Totals(1, 100, 10), 0, Totals(1, 100, 10)),
        (Totals(1, 100, 10), 100, Totals(1, 100, 10)),
        (Totals(1, 100, 10), 1000, Totals(1, 1000, 100)),
        (Totals(1, 3, 1), 4, Totals(1, 4, 2)),
        (Totals(1, 0, 10), 1000, Totals(1, 0, 10)),
    ],
)
def test_with_input(usual: Totals, input_tokens: int, expected: Totals) -> None:
    """A request whose input alone is more than usual is expected to use that much more."""
    assert with_input(usual, input_tokens) == expected


def test_large_requests_reserve_more(shared: Shared) -> None:
    """Large requests at once cannot exceed a limit after a series of small ones."""
    user = limited("1000 tokens per day")
    shared.record("alice", tokens=10)
    release = shared.admission.admit(user, "gpt-5.5", input_tokens=990)
    with pytest.raises(TooManyConcurrent, match="1k tokens per day"):
        shared.admission.admit(user, "gpt-5.5")
    release()


def test_turns_in_the_background_count(tmp_path: Path, database: Database) -> None:
    """A response in the background is in progress until its usage is known, beyond what it is charged until then."""
    shared = Shared(tmp_path, database, is_api_key=True)
    user, requests = limited("1000 tokens per day"), limited("6 requests per day")
    shared.record("alice", tokens=200)
    for _ in range(3):
        # Each is expected to take 200, of which 50 are charged: 800 in all, with the one above.
        shared.record("alice", tokens=50, status="in_progress")
    shared.record("bob", tokens=50, status="in_progress")
    expected = Expectations(database).expected_in_background("alice")
    assert [totals for _, totals in expected] == [Totals(0, 150, 0)] * 3
    shared.admission.admit(user, "gpt-5.5")()
    shared.admission.admit(requests, "gpt-5.5")()
    for _ in range(12):
        shared.record("alice", tokens=50, status="in_progress")
    assert shared.admission.limit_usage(user)[0].used == 950
    with pytest.raises(TooManyConcurrent, match="may use up the rest"):
        shared.admission.admit(user, "gpt-5.5")
    shared.is_api_key = False
    shared.admission.admit(user, "gpt-5.5")()


def test_turns_of_the_window_before(shared: Shared) -> None:
    """A turn in progress counts in the window in which it started, as it does once it has ended."""
    user = limited("1 request per day")
    midnight = START - START % DAYS + DAYS
    shared.clock.now = midnight - 1
    release = shared.admission.admit(user, "gpt-5.5")
    with pytest.raises(TooManyConcurrent):
        shared.admission.admit(user, "gpt-5.5")
    shared.clock.now = midnight
    second = shared.admission.admit(user, "gpt-5.5")
    with pytest.raises(TooManyConcurrent):
        shared.admission.admit(user, "gpt-5.5")
    release()
    second()


def test_percent_without_a_rate(shared: Shared) -> None:
    """Until it is known how much a turn uses of the subscription, one can be in progress at a time, and uses none."""
    user, end = limited("10% per week"), START + 3 * DAYS
    with in_progress(shared, user), pytest.raises(TooManyConcurrent, match="not known yet"):
        shared.admission.admit(user, "gpt-5.5")
    shared.record("alice", cost_usd=1)
    shared.clock.now += 1
    with in_progress(shared, user), pytest.raises(TooManyConcurrent, match="not known yet"):
        shared.admission.admit(user, "gpt-5.5")
    shared.note_windows(week=(4.0, end))
    # Now a dollar is 4 to 5 percent: with two in progress everything may be used up.
    with (
        in_progress(shared, user, 2),
        pytest.raises(TooManyConcurrent, match="may use up the rest of your limit of 10% per week"),
    ):
        shared.admission.admit(user, "gpt-5.5")


def test_percent_with_an_api_key(tmp_path: Path, database: Database) -> None:
    """A percentage of a subscription cannot be measured with an API key, so its user is refused."""
    shared = Shared(tmp_path, database, is_api_key=True)
    with pytest.raises(LimitUnmeasurable, match="Your limit of 10% per day is a part of a ChatGPT") as refused:
        shared.admission.admit(limited("5 USD per day", "10% per day"), "gpt-5.5")
    assert (refused.value.status, refused.value.code) == (400, "limit_unmeasurable")
    shared.admission.admit(limited("5 USD per day"), "gpt-5.5")()


def test_users_without_limits_pay_nothing(shared: Shared) -> None:
    """Neither the database nor the file system is used for them."""
    other = Shared(shared.folder, Database("sqlite:////dev/null/ocm.db"))
    other.admission.admit(User("alice"), "gpt-5.5")()
    assert not list(shared.folder.rglob("reservations"))
    assert not list(shared.folder.rglob("slots"))


_RACER = """
import sys, uuid
from pathlib import Path
from ocm_wsgi.errors import TooManyConcurrent, UsageLimitReached
from ocm_wsgi.quota.limits import parse
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.user import User
from tests.quota.subscription import Shared

shared = Shared(Path(sys.argv[1]), Database(sys.argv[2]))
user = User("alice", limits=(parse("20 requests per day"),))
print("ready", flush=True)
sys.stdin.readline()
admitted = 0
while True:
    try:
        release = shared.admission.admit(user, "gpt-5.5")
    except TooManyConcurrent:
        continue
    except UsageLimitReached:
        break
    admitted += 1
    shared.record("alice", id=uuid.uuid4().hex)
    release()
print(admitted, flush=True)
"""


def test_processes_share_a_limit(tmp_path: Path, database: Database, state_path: Path) -> None:
    """However many processes admit and record turns at once, exactly as many are admitted as the limit allows."""
    command = [sys.executable, "-c", _RACER, str(tmp_path), f"sqlite:///{state_path / 'ocm.sqlite3'}"]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        for _ in range(3)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        outputs = []
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        outputs = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert sum(outputs) == 20
