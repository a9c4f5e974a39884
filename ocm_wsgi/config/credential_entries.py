"""Reads ``credentials``: validates each entry by its type, and resolves the accounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr, ValidationError

from ocm_wsgi.config import credential_checks, outbounds, report
from ocm_wsgi.config.credentials import SCHEMAS, AccountConfig, Balancer, CredentialEntry, DefaultCredential, PoolConfig
from ocm_wsgi.config.paths import JsonPath, json_path
from ocm_wsgi.config.types import PathContext
from ocm_wsgi.errors import ConfigProblem

_UNSUPPORTED_YET = {
    "external": "other instances as credentials are not supported yet",
}


@dataclass(frozen=True)
class Entries:
    """What ``credentials`` means.

    :ivar entries: in the order of the file.
    :ivar accounts: the accounts among them.
    :ivar pools: the pools among them.
    :ivar warnings: about keys without effect.
    """

    entries: tuple[CredentialEntry, ...]
    accounts: tuple[AccountConfig, ...]
    pools: tuple[PoolConfig, ...]
    warnings: tuple[str, ...]


class EntryReader:
    """Reads ``credentials`` once, collecting problems on the way.

    :param path: the location of ``credentials``.
    :param default_path: the credential's location where an entry names none.
    :param all_outbounds: the file's ``outbounds``, unvalidated.
    """

    def __init__(self, path: JsonPath, path_context: PathContext, default_path: str | None, all_outbounds: Any) -> None:
        self._path = path
        self._path_context = path_context
        self._default_path = default_path
        self._outbounds = all_outbounds
        self.problems: list[ConfigProblem] = []

    def read(self, members: Sequence[Any]) -> Entries:
        """Return what the entries mean, as far as they are valid."""
        members = [_without_unset(member) for member in members]
        entries = [self._entry(index, member) for index, member in enumerate(members)]
        self.problems += credential_checks.problems(members, self._path)
        proxies = [self._proxy_url(index, member) for index, member in enumerate(members)]
        accounts = [
            self._account(index, entry, proxies[index])
            for index, entry in enumerate(entries)
            if isinstance(entry, DefaultCredential)
        ]
        pools = [_pool(entry) for entry in entries if isinstance(entry, Balancer)]
        warnings = [
            f"poll_interval of the credential {entry.tag} has no effect: OpenAI reports its windows with each turn"
            for entry in entries
            if not isinstance(entry, DefaultCredential | None) and entry.poll_interval is not None
        ]
        valid = tuple(entry for entry in entries if entry is not None)
        return Entries(valid, tuple(accounts), tuple(pools), tuple(warnings))

    def _entry(self, index: int, member: Any) -> CredentialEntry | None:
        path = (*self._path, index)
        if not isinstance(member, dict):
            self.problems.append(ConfigProblem(json_path(path), "a value that is not an object", "a credential"))
            return None
        member = _as_today(member)
        schema = SCHEMAS.get(member["type"]) if isinstance(member["type"], str) else None
        if schema is None:
            found = f'the unknown type "{member["type"]}"' if isinstance(member["type"], str) else "another value"
            expected = ", ".join(f'"{name}"' for name in SCHEMAS)
            self.problems.append(ConfigProblem(json_path((*path, "type")), found, f"one of {expected}"))
            return None
        if reason := _UNSUPPORTED_YET.get(member["type"]):
            self.problems.append(ConfigProblem(json_path(path), f"a {member['type']}", f"another type: {reason}"))
        try:
            return schema.model_validate(member, context=self._path_context)
        except ValidationError as exc:
            self.problems += report.problems(exc, schema, _locate(path))
            return None

    def _proxy_url(self, index: int, member: Any) -> SecretStr | None:
        detour = member.get("detour") if isinstance(member, dict) else None
        if not isinstance(detour, str):
            return None
        where = json_path((*self._path, index, "detour"))
        url, problems = outbounds.proxy_url(detour, self._outbounds, where=where, path=("outbounds",))
        self.problems += problems
        return SecretStr(url) if url else None

    def _account(self, index: int, entry: DefaultCredential, proxy_url: SecretStr | None) -> AccountConfig:
        path = entry.credential_path
        if path is None and self._default_path is None:
            where = json_path((*self._path, index, "credential_path"))
            self.problems.append(ConfigProblem(where, "no home folder for its default", "a path"))
        return AccountConfig(
            entry.tag,
            path or self._path_context.path(self._default_path or ""),
            entry.usages_path,
            proxy_url,
            cap_5h=entry.limit_5h or 100 - (entry.reserve_5h or 1),
            cap_weekly=entry.limit_weekly or 100 - (entry.reserve_weekly or 1),
        )


def _pool(entry: Balancer) -> PoolConfig:
    members = tuple(dict.fromkeys(entry.credentials))
    return PoolConfig(entry.tag, members, entry.strategy, float(entry.rebalance_threshold))


def _as_today(member: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry with its type, and one of type ``fallback`` as the balancer that it is today."""
    if member.get("type") == "fallback":
        return {**member, "type": "balancer", "strategy": member.get("strategy", "fallback")}
    return {"type": "default", **member}


def _locate(path: JsonPath) -> Callable[[JsonPath], str]:
    return lambda steps: json_path((*path, *steps))


def _without_unset(member: Any) -> Any:
    """Drop what sing-box treats as not given."""
    if not isinstance(member, dict):
        return member
    return {key: value for key, value in member.items() if value is not None and value != ""}
