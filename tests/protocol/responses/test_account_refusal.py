"""Which refusals are about the account, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from ocm_wsgi.protocol.responses.account_refusal import AccountRefusal, account_refusal

NOW = 1_773_500_000.0


def limits(used_5h: int, used_weekly: int, **others: str) -> dict[str, str]:
    """Return the fields of a response about windows that reset in an hour and in a day."""
    return {
        "x-codex-primary-used-percent": str(used_5h),
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-at": str(int(NOW) + 3600),
        "x-codex-secondary-used-percent": str(used_weekly),
        "x-codex-secondary-window-minutes": "10080",
        "x-codex-secondary-reset-at": str(int(NOW) + 86400),
        **{name.replace("_", "-"): value for name, value in others.items()},
    }


def error(**members: Any) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": {"message": "No.", **members}}


USED_UP = error(type="usage_limit_reached")
SLOW = error(code="rate_limit_exceeded")

# id: (status, fields, body, reason, seconds that the account is not used)
REFUSALS: dict[str, tuple[int, dict[str, str], Any, str, float | None]] = {
    "the 5 hours": (429, limits(100, 50), USED_UP, "usage_limit", 3600),
    "the week": (429, limits(50, 100), USED_UP, "usage_limit", 86400),
    "both": (429, limits(100, 100), USED_UP, "usage_limit", 86400),
    "the body alone": (429, {}, error(type="usage_limit_reached", resets_at=NOW + 77), "usage_limit", 77),
    "in seconds": (429, {}, error(type="usage_limit_reached", resets_in_seconds=78), "usage_limit", 78),
    "a reset that has passed": (429, {}, error(type="usage_limit_reached", resets_at=NOW - 1), "usage_limit", 300),
    "a reset beyond sense": (429, {}, error(type="usage_limit_reached", resets_at=1e300), "usage_limit", 300),
    "a reset that is none": (429, {}, error(type="usage_limit_reached", resets_at="soon"), "usage_limit", 300),
    "Retry-After": (429, {"Retry-After": "7"}, SLOW, "rate_limit", 7),
    "windows before Retry-After": (429, limits(100, 1, retry_after="7"), USED_UP, "usage_limit", 3600),
    "nothing said of a limit": (429, {}, USED_UP, "usage_limit", 300),
    "nothing said of a rate": (429, limits(50, 50), SLOW, "rate_limit", 60),
    "no body": (429, {}, None, "rate_limit", 60),
    "another limit": (429, limits(50, 50, x_codex_active_limit="codex_other"), USED_UP, "usage_limit", None),
    "its own limit": (429, limits(100, 50, x_codex_active_limit="codex"), USED_UP, "usage_limit", 3600),
    "not included": (429, {}, error(type="usage_not_included"), "payment", 3600),
    "no credits": (429, {"Retry-After": "7"}, error(code="insufficient_quota"), "payment", 3600),
    "402": (402, {}, None, "payment", 3600),
    "deactivated": (403, {}, error(code="account_deactivated"), "deactivated", 3600),
    "a workspace": (403, {}, {"detail": {"code": "deactivated_workspace"}}, "deactivated", 3600),
    "500": (500, {}, None, "failing", None),
    "503 with Retry-After": (503, {"Retry-After": "9"}, None, "failing", 9),
    "529 with a long one": (529, {"Retry-After": "900"}, None, "failing", 60),
    "a date": (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None, "failing", None),
}


@pytest.mark.parametrize(("status", "fields", "body", "reason", "seconds"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(status: int, fields: dict[str, str], body: Any, reason: str, seconds: float | None) -> None:
    """Upstream's own word decides for how long."""
    found = account_refusal(status, fields.items(), lambda: body, NOW)
    assert found == AccountRefusal(reason, None if seconds is None else NOW + seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, None),
        (101, None),
        (304, None),
        (400, error(code="account_deactivated")),
        (401, error(code="token_expired")),
        (403, error(code="unsupported_country")),
        (403, "<html>Cloudflare</html>"),
        (403, None),
        (404, None),
        (413, None),
        (426, None),
    ],
)
def test_other_responses_are_about_the_request(status: int, body: Any) -> None:
    """Another account would get the same."""
    assert account_refusal(status, limits(100, 100).items(), lambda: body, NOW) is None


def test_the_body_is_read_only_if_it_matters() -> None:
    """A response is read for a 429 and a 403 alone."""

    def unread() -> object:
        raise AssertionError("read")

    for status in (200, 402, 404, 500, 503):
        account_refusal(status, (), unread, NOW)
