"""Checks across the entries of ``credentials``, and of what users name among them.

They work on the raw document, so that their problems are reported even if other values are invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ocm_wsgi.config.credentials import SCHEMAS
from ocm_wsgi.config.paths import JsonPath, json_path
from ocm_wsgi.config.report import nearest
from ocm_wsgi.errors import ConfigProblem
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL

#: Keys of the entry that describe its only account, so that they contradict ``credentials``.
SINGLE_KEYS = ("credential_path", "usages_path", "detour", "reserve_5h", "reserve_weekly")
_WINDOWS = ("5h", "weekly")

RECEIVER = (
    "url, the address of the other instance: waiting for it to connect is not supported here; where it cannot be "
    "reached, connect the two by a VPN or ssh -R"
)
CONNECTOR = "it to be left out: reverse connections are not supported here; connect the two by a VPN or ssh -R"


def problems(entries: Sequence[Any], path: JsonPath) -> Iterator[ConfigProblem]:
    """Report what is wrong with the entries beside their values.

    :param entries: the value of ``credentials``.
    :param path: its location.
    """
    yield from _repeated(entries, "tag", path, "a tag that no other credential has")
    yield from _repeated(entries, "usages_path", path, "a file of its own for each credential")
    if entries and not any(_type(entry) == "default" for entry in entries):
        yield ConfigProblem(json_path(path), "no credential of type default", "one at least")
    tags = [tag for entry in entries if _type(entry) != "balancer" and (tag := _text(entry, "tag"))]
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            continue
        if _type(entry) == "default":
            yield from _exclusive(entry, (*path, index))
        elif _type(entry) == "balancer":
            yield from _members(entry, tags, (*path, index))
        elif _type(entry) == "external":
            yield from _forms(entry, (*path, index))


def mixed(given: Iterable[str], where: Mapping[str, str]) -> Iterator[ConfigProblem]:
    """Report keys of a single account beside ``credentials``.

    :param given: the keys that are set.
    :param where: the location of each.
    """
    for key in SINGLE_KEYS:
        if key in given:
            yield ConfigProblem(where[key], f"{key} beside credentials", f"{key} in the entries of credentials instead")


def users(found: Sequence[Any], entries: Sequence[Any], path: JsonPath) -> Iterator[ConfigProblem]:
    """Report users whose credential is missing or unknown.

    :param found: the value of ``users``.
    :param entries: the value of ``credentials``; empty if there is one account only.
    :param path: the location of the users.
    """
    types = {tag: _type(entry) for entry in entries if (tag := _text(entry, "tag"))}
    known = list(types) if entries else [DEFAULT_CREDENTIAL]
    for index, user in enumerate(found):
        if not isinstance(user, dict):
            continue
        where = json_path((*path, index, "credential"))
        tag = user.get("credential") or None
        if tag is None:
            if len(entries) > 1:
                yield ConfigProblem(where, "nothing", f"the tag of a credential, as there are several: {_list(known)}")
        elif isinstance(tag, str) and tag not in known:
            yield _unknown(where, tag, known)
        elif types.get(tag) == "external" and user.get("allow_external_usage") is not True:
            yield ConfigProblem(
                where, "an external credential for a user who may not use one", "allow_external_usage: true beside it"
            )
        external = user.get("external_credential") or None
        if isinstance(external, str) and entries and types.get(external) != "external":
            where = json_path((*path, index, "external_credential"))
            if external in types:
                yield ConfigProblem(where, f'the tag "{external}"', "the tag of a credential of type external")
            else:
                yield _unknown(where, external, [tag for tag, type_ in types.items() if type_ == "external"])


def _members(entry: Mapping[str, Any], tags: Sequence[str], path: JsonPath) -> Iterator[ConfigProblem]:
    members = entry.get("credentials")
    for tag in [members] if isinstance(members, str) else members if isinstance(members, list) else []:
        if isinstance(tag, str) and tag not in tags:
            yield _unknown(json_path((*path, "credentials")), tag, tags, "the tag of a credential that is no balancer")


def _forms(entry: Mapping[str, Any], path: JsonPath) -> Iterator[ConfigProblem]:
    if entry.get("reverse"):
        yield ConfigProblem(json_path((*path, "reverse")), "a reverse connection", CONNECTOR)
    elif not entry.get("url"):
        yield ConfigProblem(json_path((*path, "url")), "no url", RECEIVER)


def _exclusive(entry: Mapping[str, Any], path: JsonPath) -> Iterator[ConfigProblem]:
    for window in _WINDOWS:
        if entry.get(f"reserve_{window}") and entry.get(f"limit_{window}"):
            found = f"reserve_{window} beside limit_{window}"
            yield ConfigProblem(json_path((*path, f"reserve_{window}")), found, "one of the two")


def _repeated(entries: Sequence[Any], key: str, path: JsonPath, expected: str) -> Iterator[ConfigProblem]:
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        value = _text(entry, key)
        if value is None:
            continue
        if value in first:
            found = f"the same {key} as {json_path((*path, first[value], key))}"
            yield ConfigProblem(json_path((*path, index, key)), found, expected)
        first.setdefault(value, index)


def _unknown(where: str, tag: str, known: Sequence[str], what: str = "the tag of a credential") -> ConfigProblem:
    expected = f"{what}: {_list(known)}" if known else f"{what}, of which there is none"
    return ConfigProblem(where, f'the unknown tag "{tag}"', expected, nearest(tag, known))


def _list(tags: Sequence[str]) -> str:
    return ", ".join(tags)


def _type(entry: Any) -> str:
    """Return an entry's type, as today's configurations name it; ``""`` if it has none of them."""
    type_ = (entry.get("type") or "default") if isinstance(entry, dict) else ""
    type_ = "balancer" if type_ == "fallback" else type_
    return type_ if isinstance(type_, str) and type_ in SCHEMAS else ""


def _text(entry: Any, key: str) -> str | None:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, str) and value else None
