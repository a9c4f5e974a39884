"""``credentials``: what their entries mean, and every mistake in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.config import AccountConfig, load
from tests.config.test_loader import loaded
from tests.config.test_problems import ALICE, problems_in

A, B = {"tag": "a"}, {"tag": "b", "credential_path": "b.json"}
POOL = {"type": "balancer", "tag": "pool", "credentials": ["a", "b"]}
OTHER = {"type": "external", "tag": "other", "url": "https://ocm.example.org", "token": "sk-ocm-other"}


def accounts(folder: Path, *entries: dict[str, Any], **members: Any) -> tuple[AccountConfig, ...]:
    """Return the accounts that these entries of ``credentials`` describe."""
    return loaded(folder, {"credentials": list(entries), **members}).accounts


def test_a_service_without_credentials_has_one_account(tmp_path: Path) -> None:
    """Its name is default, it is where the keys of the service say, and nothing caps it."""
    (only,) = loaded(tmp_path, {"credential_path": "x.json", "usages_path": "u.json", "detour": "http://p:1"}).accounts
    assert (only.tag, only.credential_path, only.usages_path) == ("default", tmp_path / "x.json", tmp_path / "u.json")
    assert only.proxy_url is not None
    assert only.proxy_url.get_secret_value() == "http://p:1"
    assert (only.cap_5h, only.cap_weekly) == (None, None)


def test_each_entry_is_an_account(tmp_path: Path) -> None:
    """With its own file, usage file and detour; the first file is Codex's own, as for one account."""
    outbounds = [{"type": "socks", "tag": "warp", "server": "127.0.0.1", "server_port": 1080}]
    first, second = accounts(
        tmp_path, {**A, "detour": "warp", "usages_path": ""}, {**B, "usages_path": "b-usages.json"}, outbounds=outbounds
    )
    assert (first.credential_path, first.usages_path) == (tmp_path / ".codex/auth.json", None)
    assert first.proxy_url is not None
    assert first.proxy_url.get_secret_value() == "socks5h://127.0.0.1:1080"
    assert (second.credential_path, second.usages_path) == (tmp_path / "b.json", tmp_path / "b-usages.json")
    assert second.proxy_url is None


@pytest.mark.parametrize(
    ("members", "cap"),
    [
        ({}, 99),
        ({"reserve_5h": 0}, 99),
        ({"reserve_5h": 20}, 80),
        ({"reserve_5h": 1}, 99),
        ({"reserve_5h": 99}, 1),
        ({"limit_5h": 100}, 100),
        ({"limit_5h": 1}, 1),
        ({"limit_5h": 0, "reserve_5h": 5}, 95),
        ({"limit_5h": 60, "reserve_5h": 0}, 60),
    ],
)
def test_caps_are_as_in_sing_box(tmp_path: Path, members: dict[str, int], cap: int) -> None:
    """The limit, or else what the reserve leaves, which is one percent at least; each window on its own."""
    (account,) = accounts(tmp_path, {**A, **members})
    assert (account.cap_5h, account.cap_weekly) == (cap, 99)
    weekly = {key.replace("5h", "weekly"): value for key, value in members.items()}
    (account,) = accounts(tmp_path, {**A, **weekly})
    assert (account.cap_5h, account.cap_weekly) == (99, cap)


def test_users_name_their_credential(tmp_path: Path) -> None:
    """With one credential they need not; an empty tag is none, as in sing-box."""
    config = loaded(tmp_path, {"credentials": [A, B], "users": [{**ALICE, "credential": "b"}]})
    assert config.users[0].credential == "b"
    config = loaded(tmp_path, {"credentials": [A], "users": [{**ALICE, "credential": ""}]})
    assert config.users[0].credential is None
    config = loaded(tmp_path, {"users": [{**ALICE, "credential": "default", "allow_external_usage": True}]})
    assert config.users[0].allow_external_usage


@pytest.mark.parametrize(
    "strategy", ["least-used", "least_used", "round-robin", "round_robin", "random", "fallback", ""]
)
def test_pools_in_both_spellings(tmp_path: Path, strategy: str) -> None:
    """Of sing-box's code and of its page; without a strategy, the least used member serves."""
    config = loaded(tmp_path, {"credentials": [A, B, {**POOL, "strategy": strategy, "rebalance_threshold": 2.5}]})
    (pool,) = config.pools
    expected = strategy.replace("_", "-") or "least-used"
    assert (pool.tag, pool.members, pool.strategy, pool.rebalance_threshold) == ("pool", ("a", "b"), expected, 2.5)
    assert config.first_credential == "a"


def test_pools_of_one_and_of_repeated_members(tmp_path: Path) -> None:
    """One tag need not be a list, and a repeated one counts once. The first entry may be a pool."""
    config = loaded(
        tmp_path,
        {"credentials": [{**POOL, "credentials": "b"}, {**POOL, "tag": "q", "credentials": ["b", "a", "b"]}, A, B]},
    )
    assert [pool.members for pool in config.pools] == [("b",), ("b", "a")]
    assert config.first_credential == "pool"


def test_the_type_fallback_of_earlier_states(tmp_path: Path) -> None:
    """Is a strategy today; its interval of polling has no effect, of which the owner learns."""
    entry = {"type": "fallback", "tag": "pool", "credentials": ["b", "a"], "poll_interval": "60m"}
    config = loaded(tmp_path, {"credentials": [A, B, entry]})
    assert [(pool.members, pool.strategy) for pool in config.pools] == [(("b", "a"), "fallback")]
    assert [warning for warning in config.warnings if "poll_interval of the credential pool has no effect" in warning]


def test_a_user_of_a_pool(tmp_path: Path) -> None:
    """Names it as they would name an account."""
    config = loaded(tmp_path, {"credentials": [A, B, POOL], "users": [{**ALICE, "credential": "pool"}]})
    assert config.users[0].credential == "pool"


def test_two_credentials_may_share_a_file(tmp_path: Path) -> None:
    """For instance with different limits, for different users."""
    first, second = accounts(tmp_path, {**A, "limit_weekly": 50}, {"tag": "b"})
    assert first.credential_path == second.credential_path
    assert (first.cap_weekly, second.cap_weekly) == (50, 99)


# id: (configuration, path of a problem, words in the problem's text)
PROBLEMS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "no-list": ({"credentials": A}, "$.credentials", ("an object", "a list of credentials")),
    "no-object": ({"credentials": ["a"]}, "$.credentials[0]", ("not an object", "a credential")),
    "path-beside": (
        {"credentials": [A], "credential_path": "x"},
        "$.credential_path",
        ("credential_path beside credentials", "in the entries"),
    ),
    "usages-beside": ({"credentials": [A], "usages_path": "x"}, "$.usages_path", ("beside credentials",)),
    "detour-beside": ({"credentials": [A], "detour": "http://p:1"}, "$.detour", ("beside credentials",)),
    "reserve-beside": ({"credentials": [A], "reserve_5h": 5}, "$.reserve_5h", ("beside credentials",)),
    "unknown-type": (
        {"credentials": [{**A, "type": "subscription"}]},
        "$.credentials[0].type",
        ('the unknown type "subscription"', '"default", "external", "balancer"'),
    ),
    "type-number": ({"credentials": [{**A, "type": 1}]}, "$.credentials[0].type", ("another value",)),
    "no-tag": ({"credentials": [{}]}, "$.credentials[0].tag", ("nothing", "a tag")),
    "empty-tag": ({"credentials": [{"tag": ""}]}, "$.credentials[0].tag", ("nothing", "a tag")),
    "blank-tag": ({"credentials": [{"tag": " "}]}, "$.credentials[0].tag", ("an empty tag",)),
    "same-tag": (
        {"credentials": [A, {**POOL, "tag": "a"}]},
        "$.credentials[1].tag",
        ("the same tag as $.credentials[0].tag",),
    ),
    "same-usages-path": (
        {"credentials": [{**A, "usages_path": "u"}, {**B, "usages_path": "u"}]},
        "$.credentials[1].usages_path",
        ("the same usages_path as $.credentials[0].usages_path", "a file of its own"),
    ),
    "unknown-key": (
        {"credentials": [{**A, "limit_5hh": 1}]},
        "$.credentials[0].limit_5hh",
        ("unknown key", "limit_5h?"),
    ),
    "key-of-another-type": (
        {"credentials": [{**A, "strategy": "random"}]},
        "$.credentials[0].strategy",
        ("an unknown key",),
    ),
    "reserve-too-large": (
        {"credentials": [{**A, "reserve_5h": 100}]},
        "$.credentials[0].reserve_5h",
        ("found 100", "from 0 to 99"),
    ),
    "limit-too-large": (
        {"credentials": [{**A, "limit_weekly": 101}]},
        "$.credentials[0].limit_weekly",
        ("found 101", "from 0 to 100"),
    ),
    "limit-fraction": ({"credentials": [{**A, "limit_5h": 0.5}]}, "$.credentials[0].limit_5h", ("from 0 to 100",)),
    "both": (
        {"credentials": [{**A, "reserve_weekly": 1, "limit_weekly": 1}]},
        "$.credentials[0].reserve_weekly",
        ("reserve_weekly beside limit_weekly", "one of the two"),
    ),
    "unknown-detour": ({"credentials": [{**A, "detour": "x"}]}, "$.credentials[0].detour", ('the unknown tag "x"',)),
    "pool-without-members": (
        {"credentials": [A, {"type": "balancer", "tag": "p"}]},
        "$.credentials[1].credentials",
        ("nothing", "at least one"),
    ),
    "pool-of-nothing": (
        {"credentials": [A, {**POOL, "credentials": []}]},
        "$.credentials[1].credentials",
        ("a list", "at least one"),
    ),
    "pool-of-unknown": (
        {"credentials": [A, POOL]},
        "$.credentials[1].credentials",
        ('the unknown tag "b"', "no balancer: a"),
    ),
    "pool-of-a-pool": (
        {"credentials": [A, B, POOL, {**POOL, "tag": "q", "credentials": "pool"}]},
        "$.credentials[3].credentials",
        ('the unknown tag "pool"', "no balancer: a, b"),
    ),
    "strategy": (
        {"credentials": [A, B, {**POOL, "strategy": "best"}]},
        "$.credentials[2].strategy",
        ('"best"', '"least-used", "round-robin", "random" or "fallback"'),
    ),
    "threshold": (
        {"credentials": [A, B, {**POOL, "rebalance_threshold": -1}]},
        "$.credentials[2].rebalance_threshold",
        ("-1", "0 or more"),
    ),
    "external-without-token": (
        {"credentials": [{**OTHER, "token": ""}]},
        "$.credentials[0].token",
        ("nothing", "a token"),
    ),
    "receiver": (
        {"credentials": [{"type": "external", "tag": "x", "token": "t"}]},
        "$.credentials[0].url",
        ("no url", "VPN or ssh -R"),
    ),
    "connector": (
        {"credentials": [{**OTHER, "reverse": True}]},
        "$.credentials[0].reverse",
        ("a reverse connection", "VPN or ssh -R"),
    ),
    "user-without-credential": (
        {"credentials": [A, B], "users": [ALICE]},
        "$.users[0].credential",
        ("nothing", "there are several: a, b"),
    ),
    "user-of-unknown": (
        {"credentials": [A, B], "users": [{**ALICE, "credential": "bb"}]},
        "$.users[0].credential",
        ('the unknown tag "bb"', "did you mean b?"),
    ),
    "user-is-unknown": (
        {"credentials": [A], "users": [{**ALICE, "external_credential": "x"}]},
        "$.users[0].external_credential",
        ('the unknown tag "x"', "there is none"),
    ),
    "user-is-no-external": (
        {"credentials": [A], "users": [{**ALICE, "external_credential": "a"}]},
        "$.users[0].external_credential",
        ('the tag "a"', "of type external"),
    ),
    "user-never-served": (
        {"credentials": [A, OTHER], "users": [{**ALICE, "credential": "other"}]},
        "$.users[0].credential",
        ("may not use one", "allow_external_usage: true"),
    ),
    "external": ({"credentials": [A, OTHER]}, "$.credentials[1]", ("other instances", "not supported yet")),
    "pool-alone": ({"credentials": [POOL]}, "$.credentials", ("no credential of type default", "one at least")),
}


@pytest.mark.parametrize(("document", "where", "words"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_mistakes_have_a_place_and_a_remedy(tmp_path: Path, document: Any, where: str, words: tuple[str, ...]) -> None:
    """Each problem has its exact path, what was found and what is expected."""
    problems = problems_in(tmp_path, document)
    texts = [str(problem) for problem in problems if problem.where == where]
    assert any(all(word in text for word in words) for text in texts), problems


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """The reference stops at the first."""
    document = {
        "credential_path": "x",
        "credentials": [{**A, "reserve_5h": 100, "detour": "x"}, {**A, "limit_5h": 1, "reserve_5h": 1}],
        "users": [ALICE, {"name": "bob", "token": "t", "credential": "c"}],
    }
    assert sorted(problem.where for problem in problems_in(tmp_path, document)) == [
        "$.credential_path",
        "$.credentials[0].detour",
        "$.credentials[0].reserve_5h",
        "$.credentials[1].reserve_5h",
        "$.credentials[1].tag",
        "$.users[0].credential",
        "$.users[1].credential",
    ]


def test_a_variable_beside_credentials_is_reported(tmp_path: Path) -> None:
    """By its own name."""
    (problem,) = problems_in(tmp_path, {"credentials": [A]}, OCM_CREDENTIAL_PATH="x")
    assert problem.where == "OCM_CREDENTIAL_PATH"


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Neither a token nor the password of a proxy."""
    entries = [{**OTHER, "token": "sk ocm secret"}, {**A, "detour": "ftp://user:secret@proxy"}]
    problems = problems_in(tmp_path, {"credentials": entries})
    assert problems
    assert not [problem for problem in problems if "secret" in str(problem)]


def test_a_default_path_needs_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nothing says where the credential is."""
    monkeypatch.setattr("ocm_wsgi.config.paths.credential_path", lambda _environ: None)
    assert "$.credentials[0].credential_path" in [each.where for each in problems_in(tmp_path, {"credentials": [A]})]
    (tmp_path / "ocm.json").write_text('{"credentials": [{"tag": "a", "credential_path": "x"}]}')
    assert load({"HOME": str(tmp_path)}, tmp_path).accounts[0].credential_path == tmp_path / "x"
