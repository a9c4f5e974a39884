"""The dashboard's pages, requested from a real service."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocm_wsgi.quota.limits import Cycle
from ocm_wsgi.reporting.dashboard import gauge
from ocm_wsgi.simulator import Simulator
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.sign_ins import MAX_FAILURES_PER_ADDRESS
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory, start_service
from tests.views.dashboard.month import NAMES, seed

ROOT = "sk-ocm-root-0123456789abcdef"
ZED = "sk-ocm-zed-0123456789abcdef"
USERS: list[dict[str, Any]] = [{"name": "root", "token": ROOT, "admin": True}, {"name": "zed", "token": ZED}]
PAGES = ("", "live", "turns", "turns.csv", "users", "users/alice", "users/alice/rotate", "mine", "audit")
FOR_ADMINS = ("live", "users", "users/alice", "users/nobody", "users/alice/rotate", "users/alice/remove", "audit")
_FORM_TOKEN = re.compile(r'name="form_token" value="([0-9a-f]{64})"')


class Browser:
    """A minimal browser: keeps cookies and fills in forms."""

    def __init__(self, url: str, fields: dict[str, str] | None = None) -> None:
        self.url = f"{url}/ocm/"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update(fields or {})

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *failure: object) -> None:
        self.session.close()

    def get(self, page: str = "", **parameters: str) -> requests.Response:
        return self.session.get(urljoin(self.url, page), params=parameters, timeout=20)

    def post(self, page: str, on: str, **fields: str) -> requests.Response:
        """Submit the form of another page."""
        found = _FORM_TOKEN.search(self.get(on).text)
        assert found
        return self.session.post(urljoin(self.url, page), {"form_token": found[1], **fields}, timeout=20)

    def sign_in(self, token: str) -> requests.Response:
        return self.post("sign-in", "sign-in", bearer_token=token)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with a month of usage by twelve users."""
    folder = tmp_path_factory.mktemp("dashboard") / "service"
    with Simulator() as simulator, start_service(simulator, folder, user_entries=USERS) as started:
        with Browser(started.url) as anyone:
            anyone.get("sign-in")
        seed(started.state_path)
        yield started


@pytest.mark.parametrize("page", PAGES)
def test_pages_require_sign_in(running: RunningService, page: str) -> None:
    """Pages redirect to the sign-in, by a relative URL, because a proxy may add a path prefix."""
    with Browser(running.url) as stranger:
        response = stranger.session.get(stranger.url + page, allow_redirects=False, timeout=20)
        assert response.status_code == 303
        assert urljoin(response.url, response.headers["Location"]) == stranger.url + "sign-in"
        assert not response.headers["Location"].startswith(("/", "http"))


@pytest.mark.parametrize("page", PAGES)
def test_pages_for_an_admin(running: RunningService, page: str) -> None:
    """Every page exists, is small, is not cached, and loads only its own files."""
    with Browser(running.url) as root:
        assert root.sign_in(ROOT).status_code == 200
        response = root.get(page)
        assert response.status_code == 200
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        if page != "turns.csv":
            assert len(response.content) < 150_000
            assert not re.search(r"style=|<style|<script>|\son\w+=|https?://(?!127\.0\.0\.1)", response.text)


def test_cookie(running: RunningService) -> None:
    """Scripts and other sites cannot use the cookie, and it is ``Secure`` if TLS was used."""
    for fields, is_secure in (({}, False), ({"X-Forwarded-Proto": "https"}, True)):
        with Browser(running.url, fields) as zed:
            form = zed.get("sign-in")
            token = _FORM_TOKEN.search(form.text)
            assert token
            visit = form.headers["Set-Cookie"].partition(";")[0]
            response = requests.post(
                zed.url + "sign-in",
                {"form_token": token[1], "bearer_token": ZED},
                headers={"Cookie": visit, **fields},
                allow_redirects=False,
                timeout=20,
            )
            assert response.status_code == 303
            cookie = response.headers["Set-Cookie"]
            assert cookie.startswith("ocm_session=")
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert "Path=" not in cookie
            assert ("Secure" in cookie) == is_secure
            assert ZED not in cookie


def test_forged_form(running: RunningService) -> None:
    """A form without this browser's form token changes nothing, no matter who is signed in."""
    with Browser(running.url) as root, Browser(running.url) as other:
        root.sign_in(ROOT)
        foreign = _FORM_TOKEN.search(other.get("sign-in").text)
        assert foreign
        for token in ("", "0" * 64, foreign[1]):
            response = root.session.post(
                root.url + "users", {"name": "eve-of-elsewhere", "form_token": token}, timeout=20
            )
            assert response.status_code == 400
        assert "eve-of-elsewhere" not in root.get("users").text


@pytest.mark.parametrize("page", FOR_ADMINS)
def test_admin_pages_refuse_other_users(running: RunningService, page: str) -> None:
    """A user who is not an admin gets the same refusal whether the page's subject exists or not."""
    with Browser(running.url) as zed:
        zed.sign_in(ZED)
        response = zed.get(page)
        assert response.status_code == 403
        assert "This page is for admins." in response.text
        assert not any(name in response.text for name in NAMES)


def test_pages_show_only_the_viewer(running: RunningService) -> None:
    """Whatever IDs and filters a user tries, no page shows another user or the owner's quota."""
    texts = st.one_of(st.sampled_from([*NAMES, "root", "zed", "gpt-5.5", "completed", "error"]), st.text(max_size=8))
    keys = st.sampled_from(["user", "model", "status", "since", "until", "before", "name"])
    places = st.builds(lambda at, id_: f"{at}~{id_}", st.integers(0, 2**33), st.sampled_from(["turn-ff", "z"]))

    with Browser(running.url) as zed:
        zed.sign_in(ZED)

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(["", "turns", "turns.csv", "mine"]), st.dictionaries(keys, st.one_of(texts, places)))
        def ask(page: str, parameters: dict[str, str]) -> None:
            response = zed.get(page, **parameters)
            assert response.status_code == 200
            shown = response.text
            for given_text in sorted(parameters.values(), key=len, reverse=True):
                shown = shown.replace(f'value="{given_text}"', "")
            shown = re.sub(r'href="[^"]*"', "", shown)
            assert not any(re.search(rf"\b{name}\b", shown) for name in [*NAMES, "root"])
            assert "over pace" not in shown

        ask()


def test_turns_by_page(running: RunningService) -> None:
    """Following the pages shows each turn once, as the CSV file does."""
    with Browser(running.url) as root:
        root.sign_in(ROOT)
        filters = {"user": "judy", "model": "gpt-5.5"}
        rows = root.get("turns.csv", **filters).text.splitlines()[1:]
        response, seen = root.get("turns", **filters), 0
        while True:
            seen += response.text.count("<time")
            following = re.search(r'href="([^"]*)" rel="next"', response.text)
            if not following:
                break
            response = root.session.get(urljoin(response.url, following[1].replace("&amp;", "&")), timeout=20)
        assert seen == len(rows) > 0
        assert all(",judy,gpt-5.5," in row for row in rows)


@pytest.mark.parametrize("change", ["rotate", "disable", "expire", "remove"])
def test_revocation(running: RunningService, change: str) -> None:
    """A new token, disabling, expiry and removal end the session at the next request, in every worker."""
    database = Database(f"sqlite:///{running.state_path / 'ocm.db'}")
    accounts = Accounts([], database)
    name = f"temporary-{change}"
    try:
        token = accounts.add(replace(accounts.show("alice").user, name=name, limits=()), actor="test")
        with Browser(running.url) as user:
            assert "My usage" in user.sign_in(token).text
            if change == "rotate":
                accounts.rotate_token(name, actor="test")
            elif change == "remove":
                accounts.remove(name, actor="test")
            elif change == "disable":
                accounts.update(name, lambda user: replace(user, disabled=True), actor="test")
            else:
                accounts.update(name, lambda user: replace(user, expires_at=time.time() - 1), actor="test")
            for _ in range(6):
                assert user.get("mine").url.endswith("/sign-in")
    finally:
        if change != "remove":
            accounts.remove(name, actor="test")
        database.close()


def test_sign_out(running: RunningService) -> None:
    """Signing out ends the session, and is in the audit trail."""
    with Browser(running.url) as zed, Browser(running.url) as root:
        zed.sign_in(ZED)
        assert zed.post("sign-out", "mine").url.endswith("/sign-in")
        assert zed.get("mine").url.endswith("/sign-in")
        root.sign_in(ROOT)
        assert "signed out" in root.get("audit").text


def test_stolen_cookie_after_sign_out(running: RunningService) -> None:
    """A copy of the session's cookie is worth nothing after signing out; the user's other sessions go on."""
    with Browser(running.url) as zed, Browser(running.url) as thief, Browser(running.url) as other:
        zed.sign_in(ZED)
        other.sign_in(ZED)
        thief.session.cookies.update(zed.session.cookies)
        assert "My usage" in thief.get("mine").text
        zed.post("sign-out", "mine")
        for _ in range(6):
            assert thief.get("mine").url.endswith("/sign-in")
            assert "My usage" in other.get("mine").text


def test_throttle(service: ServiceFactory) -> None:
    """After some failures nobody can sign in from that address, even with a valid token; from others they can."""
    running = service()
    with Browser(running.url, {"X-Forwarded-For": "192.0.2.1"}) as guest:
        for number in range(MAX_FAILURES_PER_ADDRESS):
            assert guest.sign_in(f"sk-ocm-{number}").status_code == 403
        response = guest.sign_in(ALICE)
        assert response.status_code == 429
        assert int(response.headers["Retry-After"]) > 0
    with Browser(running.url, {"X-Forwarded-For": "192.0.2.2"}) as other:
        assert "My usage" in other.sign_in(ALICE).text


def test_throttle_of_a_known_browser(service: ServiceFactory) -> None:
    """Strangers at the same address keep nobody out who has signed in with their browser before."""
    running = service(workers=1)
    address = {"X-Forwarded-For": "192.0.2.1"}
    with Browser(running.url, address) as alice, Browser(running.url, address) as stranger:
        alice.sign_in(ALICE)
        alice.post("sign-out", "mine")
        for number in range(MAX_FAILURES_PER_ADDRESS):
            stranger.sign_in(f"sk-ocm-{number}")
        assert stranger.sign_in(ALICE).status_code == 429
        assert alice.sign_in(BOB).status_code == 429
        assert "My usage" in alice.sign_in(ALICE).text
        cookie = alice.session.cookies["ocm_known"]
        assert ALICE not in cookie
        stranger.session.cookies["ocm_session"] = cookie
        assert stranger.get("mine").url.endswith("/sign-in")


def test_open_service(service: ServiceFactory) -> None:
    """Without users the dashboard is as open as the API and says so; the first user closes it."""
    running = service(users={})
    with Browser(running.url) as anyone:
        page = anyone.get().text
        assert "Open to everyone" in page
        assert "Next steps" in page
        added = anyone.post("users", "users", name="ann", admin="1").text
        token = re.search(r"sk-ocm-\w{43}", added)
        assert token
        assert anyone.get().url.endswith("/sign-in")
        assert "Sign out" in anyone.sign_in(token[0]).text


@pytest.mark.parametrize(
    ("used", "passed", "words", "lasts"),
    [
        pytest.param(0, 50, "Hardly used yet", None, id="unused"),
        pytest.param(50, 50, "On pace; lasts until it resets", None, id="even"),
        pytest.param(25, 50, "50 % under pace; lasts until it resets", None, id="under"),
        pytest.param(67, 50, "34 % over pace", 50 * 100 / 67, id="over"),
        pytest.param(80, 10, "8 times the pace", 12.5, id="far-over"),
        pytest.param(100, 50, "Used up", None, id="used-up"),
        pytest.param(60, 1, "Just started", None, id="early"),
    ],
)
def test_gauge_summary(used: float, passed: float, words: str, lasts: float | None) -> None:
    """A gauge says in plain words how usage compares with time, and how long the window will last."""
    found = gauge("week", Cycle(0, 100), used, 0.0, passed)
    assert found.summary == words
    assert found.lasts_until == pytest.approx(lasts) if lasts else found.lasts_until is None
