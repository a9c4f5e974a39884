"""The entries of ``credentials``: the accounts that the service uses, and the pools that spread requests over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from ocm_wsgi.config.types import (
    Amount,
    BaseUrl,
    Expected,
    Flag,
    Listed,
    Location,
    StrictModel,
    invalid,
)
from ocm_wsgi.config.users import BearerToken
from ocm_wsgi.quota.choosing import Strategy
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL

_MAX_TAG_LENGTH = 64


def _tag(tag: str) -> str:
    if not tag.strip():
        raise invalid("a tag", "an empty tag")
    if len(tag) > _MAX_TAG_LENGTH:
        raise invalid(f"a tag of at most {_MAX_TAG_LENGTH} characters", f"a tag of {len(tag)} characters")
    if not tag.isprintable():
        raise invalid("a tag without control characters")
    return tag


def _strategy(strategy: Any) -> Any:
    """Accept both of sing-box's spellings: its code has hyphens, its page underscores."""
    return strategy.replace("_", "-") if isinstance(strategy, str) else strategy


Tag = Annotated[str, AfterValidator(_tag), Expected("a tag")]
Detour = Annotated[SecretStr | None, Expected("a tag of outbounds or a proxy URL", secret=True)]
Reserve = Annotated[int, Field(ge=0, le=99), Expected("a whole percentage from 0 to 99")]
UpTo = Annotated[int, Field(ge=0, le=100), Expected("a whole percentage from 0 to 100")]


class DefaultCredential(StrictModel):
    """An account at OpenAI: one ``auth.json``."""

    type: Literal["default"] = "default"
    tag: Tag
    credential_path: Location | None = None
    usages_path: Location | None = None
    detour: Detour = None
    reserve_5h: Reserve = 0
    reserve_weekly: Reserve = 0
    limit_5h: UpTo = 0
    limit_weekly: UpTo = 0


class ExternalCredential(StrictModel):
    """Another instance of this service, or of sing-box's, that is used as an account."""

    type: Literal["external"]
    tag: Tag
    url: BaseUrl | None = None
    token: BearerToken
    server: Annotated[str | None, Expected("a host name or an IP address")] = None
    server_port: Annotated[int, Field(ge=0, le=65535), Expected("a port number from 0 to 65535")] = 0
    reverse: Flag = False
    detour: Detour = None
    usages_path: Location | None = None
    poll_interval: Annotated[str | None, Expected('a duration such as "30m"')] = None


class Balancer(StrictModel):
    """A pool of accounts, among which each conversation is given one."""

    type: Literal["balancer"]
    tag: Tag
    credentials: Annotated[
        tuple[str, ...], Listed, Field(min_length=1), Expected("a tag or a list of tags, at least one")
    ]
    strategy: Annotated[
        Strategy,
        BeforeValidator(_strategy),
        Expected('"least-used", "round-robin", "random" or "fallback"'),
    ] = "least-used"
    rebalance_threshold: Annotated[
        Annotated[Amount, Field(ge=0, allow_inf_nan=False)], Expected("a percentage, 0 or more")
    ] = Field(default=0, validate_default=True)
    poll_interval: Annotated[str | None, Expected('a duration such as "30m"')] = None


CredentialEntry = DefaultCredential | ExternalCredential | Balancer

#: By the values of ``type``. The one of earlier states of sing-box's branch, ``fallback``, is a strategy today.
SCHEMAS: Mapping[str, type[DefaultCredential | ExternalCredential | Balancer]] = {
    "default": DefaultCredential,
    "external": ExternalCredential,
    "balancer": Balancer,
}


@dataclass(frozen=True)
class AccountConfig:
    """An account at OpenAI, resolved.

    :ivar proxy_url: how it is reached; ``None`` connects directly.
    :ivar cap_5h: the account is not used once this percentage of its window of 5 hours is used; ``None`` for no cap.
    :ivar cap_weekly: the same for its week.
    """

    tag: str
    credential_path: Path
    usages_path: Path | None = None
    proxy_url: SecretStr | None = None
    cap_5h: int | None = None
    cap_weekly: int | None = None


@dataclass(frozen=True)
class PoolConfig:
    """A pool, resolved.

    :ivar members: tags of accounts.
    :ivar rebalance_threshold: in percent; 0 for never.
    """

    tag: str
    members: tuple[str, ...]
    strategy: Strategy
    rebalance_threshold: float = 0.0


def only_account(credential_path: Path, usages_path: Path | None, proxy_url: SecretStr | None) -> AccountConfig:
    """Return the account of a service without ``credentials``."""
    return AccountConfig(DEFAULT_CREDENTIAL, credential_path, usages_path, proxy_url)
