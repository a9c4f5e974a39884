"""A reproducible month of usage by twelve users, for tests and for screenshots."""

from __future__ import annotations

import random
import time
from pathlib import Path

import sqlalchemy as sa

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.protocol.responses.turn import Turn, TurnStatus, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.quota.limits import parse
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User

NAMES = "alice bob carol dave erin frank grace heidi ivan judy mallory niaj".split()
MODELS = "gpt-5.5 gpt-5.5-codex gpt-5.5-mini o5-mini gpt-5.4 gpt-5.4-codex codex-mini".split()
_HOUR, _DAY = 3600, 86400
_STATUSES: tuple[TurnStatus, ...] = ("completed",) * 24 + ("incomplete", "failed", "cut", "error")


def seed(state_path: Path, *, days: int = 30, now: float | None = None) -> None:
    """Write a month of users, turns, upstream's windows and audit events."""
    now = time.time() if now is None else now
    database = Database(f"sqlite:///{state_path / 'ocm.db'}")
    dice = random.Random(7)
    turns = [turn for day in range(days) for turn in _day(dice, now - day * _DAY, now, len(NAMES))]
    with database.write_directly() as direct:
        queries.store_records(direct, map(record_of, turns))
    with database.write() as connection:
        for period, length, elapsed, used in (
            ("5h", 5 * _HOUR, 2.2 * _HOUR, 31.0),
            ("week", 7 * _DAY, 3.4 * _DAY, 65.0),
        ):
            start = int(now - elapsed)
            cost = sum(turn.cost_micro_usd or 0 for turn in turns if turn.started_at >= start)
            for step in range(1, 21):
                part = {"cost_micro_usd": cost * step // 20, "cost_before_micro_usd": cost * (step - 1) // 20}
                window = {
                    "credential": DEFAULT_CREDENTIAL,
                    "period": period,
                    "window_start": start,
                    "window_end": start + length,
                }
                row = {**window, "at": start + elapsed * step / 20, "used_percent": used * step / 20, **part}
                connection.execute(sa.insert(db.quota_sample), row)
    accounts = Accounts([], database)
    for name in NAMES:
        limits = ["30% per week", "5 USD per day"] if name == "alice" else ["10% per week"] if name > "f" else []
        accounts.add(
            User(name, limits=tuple(map(parse, limits)), models=("gpt-5*",) if name == "dave" else ()), actor="root"
        )
    database.close()


def _day(dice: random.Random, end: float, now: float, people: int) -> list[Turn]:
    turns = []
    is_weekend = time.gmtime(end).tm_wday >= 5
    for place, name in enumerate(NAMES[:people]):
        for _ in range(int(dice.expovariate(1 / (40 / (place + 1.5)))) // (3 if is_weekend else 1)):
            at = min(end - dice.random() * _DAY, now - 60)
            status = dice.choice(_STATUSES)
            model = dice.choices(MODELS, (40, 30, 12, 8, 5, 3, 2))[0]
            tokens = int(dice.lognormvariate(10, 0.9))
            has_usage = status in ("completed", "incomplete")
            usage = Usage(tokens, tokens * 2 // 3, int(dice.lognormvariate(7, 0.8)), 100) if has_usage else None
            turns.append(
                Turn(
                    id=f"turn-{dice.getrandbits(64):016x}",
                    started_at=at,
                    user=name,
                    credential=DEFAULT_CREDENTIAL,
                    model=model,
                    service_tier="default",
                    context_window=0,
                    week_start=None,
                    usage=usage,
                    cost_micro_usd=tokens * 2 if usage else None,
                    transport="sse",
                    status=status,
                    http_status=429 if status == "error" else 200,
                    first_byte_ms=int(dice.lognormvariate(7, 0.6)),
                    duration_ms=int(dice.lognormvariate(9.5, 0.9)),
                    error_code="rate_limit_exceeded" if status == "error" else "",
                )
            )
    return turns
