"""The service's configuration keys, and the resolved configuration that the rest of the package uses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from ocm_wsgi.config.credentials import AccountConfig, CredentialEntry, PoolConfig
from ocm_wsgi.config.extra_endpoints import ExtraEndpoint
from ocm_wsgi.config.tls import TLS, Certificate
from ocm_wsgi.config.types import (
    Address,
    AsTuple,
    BaseUrl,
    ChatgptBaseUrl,
    DatabaseUrl,
    Expected,
    FieldName,
    FieldValues,
    Flag,
    KeepAlive,
    Location,
    RoutingMark,
    StrictModel,
    Text,
    WebOrigin,
)
from ocm_wsgi.config.users import BearerToken, Price, UserConfig

Percent = Annotated[int, Field(ge=0, le=100), Expected("a whole percentage from 0 to 100")]


class Service(StrictModel):
    """The entry of type ``ocm``: one attribute per key, in the order of the documentation."""

    listen: Address = "127.0.0.1"
    listen_port: Annotated[int, Field(ge=0, le=65535), Expected("a port number from 0 to 65535")] = 8080
    bind_interface: Annotated[
        str | None, Field(min_length=1, max_length=15), Expected("the name of a network interface (1 to 15 characters)")
    ] = None
    routing_mark: RoutingMark = 0
    reuse_addr: Flag = False
    netns: Annotated[str | None, Field(min_length=1), Expected("the name or path of a network namespace")] = None
    tcp_fast_open: Flag = False
    tcp_multi_path: Flag = False
    disable_tcp_keep_alive: Flag = False
    tcp_keep_alive: KeepAlive = timedelta(minutes=5)
    tcp_keep_alive_interval: KeepAlive = timedelta(seconds=75)
    credential_path: Location
    usages_path: Location | None = None
    credentials: Annotated[tuple[Any, ...], AsTuple, Expected("a list of credentials")] = ()
    users: Annotated[tuple[UserConfig, ...], AsTuple, Expected("a list of users")] = ()
    headers: Annotated[
        Mapping[FieldName, FieldValues], Field(repr=False), Expected("an object of field names and values")
    ] = Field(default_factory=dict)
    detour: Annotated[SecretStr | None, Expected("a tag of outbounds or a proxy URL", secret=True)] = None
    tls: Annotated[TLS | None, Expected("an object of TLS settings")] = None
    state_path: Location
    database_url: Annotated[DatabaseUrl, Field(repr=False)]
    chatgpt_base_url: ChatgptBaseUrl = "https://chatgpt.com/backend-api/codex"
    api_base_url: BaseUrl = "https://api.openai.com"
    auth_base_url: BaseUrl = "https://auth.openai.com"
    reserve_5h: Percent = 0
    reserve_weekly: Percent = 0
    prices: Annotated[Mapping[Text, Price], Expected("an object of models and their prices")] = Field(
        default_factory=dict
    )
    extra_endpoints: Annotated[tuple[ExtraEndpoint, ...], AsTuple, Expected("a list of endpoints")] = ()
    allow_origins: Annotated[tuple[WebOrigin, ...], AsTuple, Expected("a list of origins")] = ()
    max_body_bytes: Annotated[int, Field(ge=1), Expected("a whole number of bytes, at least 1")] = 128 * 1024 * 1024
    log_format: Annotated[Literal["text", "json"], Expected('"text" or "json"')] = "text"
    metrics_token: Annotated[BearerToken | None, Expected("a token", secret=True)] = None


class Config(Service):
    """The resolved configuration, and where it came from.

    :ivar credentials: the entries; empty if there is one account, which the keys of the service describe.
    :ivar accounts: at least one.
    :ivar pools: of these accounts.
    :ivar first_credential: the tag of the account or pool that serves users whom nothing binds to another.
    :ivar proxy_url: the URL of the proxy to reach upstream through (``socks5h``, ``socks5``, ``socks4a``, ``socks4``,
        ``http``, ``https``), or ``None`` for direct connections. Resolved from ``detour``.
    :ivar certificate: the certificates to trust for upstream.
    :ivar source: the file that was read, or ``"defaults"``.
    :ivar warnings: valid settings that the owner should know about.
    """

    credentials: tuple[CredentialEntry, ...] = ()
    accounts: tuple[AccountConfig, ...]
    pools: tuple[PoolConfig, ...]
    first_credential: Text
    proxy_url: SecretStr | None
    certificate: Certificate
    source: Text
    warnings: tuple[Text, ...]


def scalar_keys() -> tuple[str, ...]:
    """Return the keys that environment variables can set: those that hold a single value."""
    structured = {"credentials", "users", "headers", "tls", "prices", "extra_endpoints", "allow_origins"}
    return tuple(key for key in Service.model_fields if key not in structured)
