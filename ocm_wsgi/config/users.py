"""Users, limits and prices in the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from ocm_wsgi.config.types import Amount, AsTuple, Expected, Flag, StrictModel, ZonedTime, invalid

MAX_NAME_LENGTH = 64
_MEASURES = ("requests", "tokens", "usd", "percent")


def _name(name: str) -> str:
    if not name.strip():
        raise invalid("a name", "an empty name")
    if len(name) > MAX_NAME_LENGTH:
        raise invalid(f"a name of at most {MAX_NAME_LENGTH} characters", f"a name of {len(name)} characters")
    if not name.isprintable():
        raise invalid("a name without control characters")
    return name


def _bearer_token(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if not text:
        raise invalid("a token that is not empty", "an empty token")
    if not all("!" <= character <= "~" for character in text):
        raise invalid(
            "a token of visible ASCII characters without spaces, as clients can send no others",
            "a token (not shown) with other characters",
        )
    return token


def _glob(pattern: str) -> str:
    if not pattern:
        raise invalid('a pattern such as "gpt-*"', "an empty pattern")
    return pattern


BearerToken = Annotated[SecretStr, AfterValidator(_bearer_token), Expected("a token", secret=True)]
Count = Annotated[int, Field(ge=1), Expected("a whole number, at least 1")]
Positive = Annotated[Amount, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[Amount, Field(ge=0, allow_inf_nan=False), Expected("USD per million tokens, 0 or more")]


class Limit(StrictModel):
    """How much a user may use in one window. Each measure given applies on its own."""

    per: Annotated[Literal["5h", "day", "week", "month"], Expected('"5h", "day", "week" or "month"')]
    requests: Count | None = None
    tokens: Count | None = None
    usd: Annotated[Positive | None, Expected("an amount in USD, more than 0")] = None
    percent: Annotated[
        Annotated[Positive, Field(le=100)] | None, Expected("a percentage of the subscription, more than 0 up to 100")
    ] = None

    @model_validator(mode="after")
    def _measures_something(self) -> Limit:
        if all(getattr(self, measure) is None for measure in _MEASURES):
            raise invalid("at least one of requests, tokens, usd and percent", "a limit without a measure")
        return self


class UserConfig(StrictModel):
    """A user, identified by a bearer token."""

    name: Annotated[str, AfterValidator(_name), Expected("a name")]
    token: BearerToken
    admin: Flag = False
    models: Annotated[
        tuple[Annotated[str, AfterValidator(_glob), Expected("a pattern")], ...],
        AsTuple,
        Expected('a list of patterns such as "gpt-*"'),
    ] = ()
    limits: Annotated[tuple[Limit, ...], AsTuple, Expected("a list of limits")] = ()
    expires_at: ZonedTime | None = None
    max_concurrent: Annotated[Count | None, Expected("a whole number, at least 1")] = None
    disabled: Flag = False
    credential: Annotated[str | None, Expected("the tag of a credential")] = None
    external_credential: Annotated[str | None, Expected("the tag of an external credential")] = None
    allow_external_usage: Flag = False


class Price(StrictModel):
    """The price of a model: USD per million tokens, exact."""

    input: Rate
    cached_input: Rate
    output: Rate
