"""How pages write numbers and times."""

from __future__ import annotations

from datetime import datetime, timezone

from flask import Blueprint
from markupsafe import Markup

from ocm_wsgi.admission.admission import Use
from ocm_wsgi.quota.limits import MICRO_PER_USD

_FORMS = {
    "time": "%Y-%m-%d %H:%M UTC",
    "weekday": "%A %H:%M UTC",
    "day": "%a %-d %b",
    "date": "%Y-%m-%d",
}
_EVENTS = {
    "signin": "signed in",
    "signin.failed": "failed to sign in",
    "signout": "signed out",
    "user.added": "added a user",
    "user.updated": "changed a user",
    "user.token_rotated": "gave a user a new token",
    "user.removed": "removed a user",
}
_STATUSES = {
    "completed": "done",
    "incomplete": "incomplete",
    "failed": "failed",
    "cut": "cut off",
    "error": "refused",
}


def add_filters(blueprint: Blueprint) -> None:
    """Let templates use them."""
    for filter_ in (usd, short, whole, percent, moment, duration, used, event, outcome, user_name):
        blueprint.add_app_template_filter(filter_)


def usd(micro: int | None) -> str:
    """Dollars from micro-dollars."""
    if micro is None:
        return "no price"
    if 0 < micro < MICRO_PER_USD // 100:
        return "< $0.01"
    dollars = micro / MICRO_PER_USD
    return f"${dollars:,.0f}" if dollars >= 1000 else f"${dollars:,.2f}"


def short(number: int) -> str:
    """A large number, short."""
    for factor, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            part = number / factor
            return f"{part:.1f} {suffix}" if part < 10 else f"{part:.0f} {suffix}"
    return str(number)


def whole(number: int) -> str:
    """A large number in full."""
    return f"{number:,}"


def percent(number: float | None) -> str:
    """A percentage; whole, but for small ones."""
    if number is None:
        return "–"
    return f"{number:.1f} %" if 0 < number < 1 else f"{number:.0f} %"


def moment(at: float | None, form: str = "time") -> str:
    """A time in UTC. In the form ``time`` or ``weekday`` a browser with JavaScript shows it in its own time zone."""
    if at is None:
        return "–"
    when = datetime.fromtimestamp(at, timezone.utc)
    return Markup('<time datetime="{}" data-form="{}">{}</time>').format(
        when.strftime("%Y-%m-%dT%H:%M:%SZ"), form, when.strftime(_FORMS[form])
    )


def duration(milliseconds: float) -> str:
    """How long something took."""
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min" if seconds < 7200 else f"{seconds // 3600:.0f} h"


def used(use: Use) -> str:
    """How much of a limit is used, in its own unit."""
    if use.limit.unit == "percent":
        return percent(float(use.used))
    if use.limit.unit == "usd":
        return usd(int(use.used * MICRO_PER_USD))
    return short(int(use.used))


def event(kind: str) -> str:
    """What was done, in words."""
    return _EVENTS.get(kind, kind)


def outcome(status: str) -> str:
    """How a turn ended, in words."""
    return _STATUSES.get(status, status)


def user_name(name: str) -> str:
    """A user's name; turns from before there were users have none."""
    return name or "anyone"
