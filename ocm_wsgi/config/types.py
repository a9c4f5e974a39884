"""The types of configuration values, each with a plain description of its valid values.

Each is a Python type plus an :class:`Expected`, which :mod:`ocm_wsgi.config.report` quotes for an invalid value.
Validators with more to report raise :func:`invalid`. Types are strict: ``"8080"`` is not a port.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError

from ocm_wsgi.config import times


@dataclass(frozen=True)
class Expected:
    """A description of the valid values, phrased to follow "expected".

    :ivar secret: an invalid value is never shown.
    """

    text: str
    secret: bool = False


@dataclass(frozen=True)
class PathContext:
    """What paths are resolved against: the folder for relative paths and the home folder for ``~``."""

    cwd: Path
    home: Path | None

    def path(self, text: str) -> Path:
        """Return the absolute path that the text names. ``~`` is the home folder, if there is one."""
        if self.home is not None and (text == "~" or text.startswith("~/")):
            return self.home / text[2:]
        return self.cwd / text


class StrictModel(BaseModel):
    """A JSON object of the configuration: exact types, no unknown keys, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def invalid(expected: str, found: str | None = None) -> PydanticCustomError:
    """Return the error to raise for an invalid value; ``found`` is reported in place of the value itself."""
    return PydanticCustomError("invalid", "{expected}", {"expected": expected, "found": found})


def _listed(value: Any) -> Any:
    """Accept a single value in place of a list, as sing-box does."""
    return tuple(value) if isinstance(value, list) else (value,)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _joined(value: Any) -> Any:
    """Join the lines of a PEM text, which sing-box accepts as a list or as one string."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value) or None
    return value or None if isinstance(value, str) else value


def _path(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str) or not value or re.search(r"[\0\ud800-\udfff]", value):
        raise invalid("a path")
    assert isinstance(info.context, PathContext)
    return info.context.path(value)


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise invalid("an IP address; for a Unix socket use gunicorn's --bind") from None


# Go's units, and the day that sing-box adds (its option.Duration).
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h|d)")
_MAX_KEEP_ALIVE_SECONDS = 32767  # Linux: MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL


def parse_duration(text: str) -> timedelta:
    """Parse a Go duration such as ``1h30m``.

    :raises ValueError: the text is not a duration.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(text)
    parts = _DURATION_PART.findall(text)
    return timedelta(seconds=sum(float(count) * _UNIT_SECONDS[unit] for count, unit in parts))


def _keep_alive(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    try:
        duration = parse_duration(value)
    except (TypeError, ValueError, OverflowError):
        raise invalid('a duration with its unit, such as "30s", "5m" or "1h30m"') from None
    if not 1 <= duration.total_seconds() <= _MAX_KEEP_ALIVE_SECONDS:
        raise invalid("a duration from 1s to 9h6m7s, the range that Linux accepts")
    return duration


def _routing_mark(value: Any) -> Any:
    number = value
    if isinstance(value, str) and re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", value):
        number = int(value, 16 if value[:2].lower() == "0x" else 10)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**32:
        raise invalid('a number from 0 to 4294967295, or a string in hexadecimal such as "0x1234"')
    return number


def _decimal(value: Any) -> Any:
    """Convert whole numbers to decimals; JSON's fractions are decimals already."""
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _base_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise invalid("an http or https URL", "a value that is not a URL") from None
    if parts.username is not None or parts.password is not None:
        raise invalid("an http or https URL without user name and password", "a URL with a user name or password")
    if parts.scheme not in ("http", "https") or not host or re.search(r"[^\x21-\x7e]|\\", value):
        raise invalid("an http or https URL", "another value (not shown)" if "@" in value else None)
    if "?" in value or "#" in value:
        raise invalid("an http or https URL without query and fragment")
    return value.rstrip("/")


def _codex_below(value: str) -> str:
    # The key of this name in Codex's own configuration ends like this.
    if urlsplit(value).path.endswith("/backend-api"):
        raise invalid(f"{value}/codex; one level above it, every user could read the owner's conversations")
    return value


# An origin as browsers serialise it (RFC 6454 section 6.2): lower case, without the scheme's default port.
_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:]+\])(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def _origin(value: str) -> str:
    expected = 'an origin as browsers send it, such as "https://app.example.org" or "http://localhost:3000", or "*"'
    if value == "*":
        return value
    found = _ORIGIN.fullmatch(value.lower().rstrip("/"))
    if found is None:
        raise invalid(expected)
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS[scheme]) else f"{scheme}://{host}:{port}"


_DRIVER_HINT = "postgresql+psycopg://..., with the package installed by: pip install 'ocm-wsgi[postgresql]'"


def _database_url(value: str) -> str:
    # Imported here because it takes longer than the rest of this package, and the refresh process has no database.
    import sqlalchemy as sa

    if not re.match(r"(sqlite|postgresql)(\+[a-z0-9_]+)?://", value):
        raise invalid("an SQLAlchemy URL that starts with sqlite:// or postgresql://", "another value (not shown)")
    try:
        sa.make_url(value).get_dialect().import_dbapi()
    except (sa.exc.ArgumentError, ValueError):
        raise invalid("an SQLAlchemy URL", "a malformed URL (not shown)") from None
    except ImportError as exc:
        raise invalid(_DRIVER_HINT, f"a URL that needs the package {exc.name}, which is not installed") from None
    return value


def _zoned_time(value: Any) -> Any:
    expected = 'a time with its time zone, such as "2027-01-31T00:00:00Z"'
    if isinstance(value, datetime):
        return value
    try:
        time = times.parse(value)
    except (TypeError, ValueError):
        raise invalid(expected) from None
    if time.tzinfo is None:
        raise invalid(expected, f'"{value}", which has no time zone')
    return time


Flag = Annotated[bool, Expected("true or false")]
Text = Annotated[str, Expected("a string")]
Address = Annotated[str, AfterValidator(_address), Expected("an IP address")]
Location = Annotated[Path, BeforeValidator(_path), Expected("a path")]
Locations = Annotated[tuple[Location, ...], BeforeValidator(_listed), Expected("a path or a list of paths")]
Names = Annotated[tuple[Text, ...], BeforeValidator(_listed), Expected("a string or a list of strings")]
Pem = Annotated[str, BeforeValidator(_joined), Expected("a PEM text, as a string or a list of its lines", secret=True)]
SecretPem = Annotated[
    SecretStr, BeforeValidator(_joined), Expected("a PEM text, as a string or its lines", secret=True)
]
KeepAlive = Annotated[timedelta, BeforeValidator(_keep_alive), Expected("a duration")]
RoutingMark = Annotated[int, BeforeValidator(_routing_mark), Expected("a number")]
BaseUrl = Annotated[str, AfterValidator(_base_url), Expected("an http or https URL")]
ChatgptBaseUrl = Annotated[BaseUrl, AfterValidator(_codex_below)]
WebOrigin = Annotated[str, AfterValidator(_origin), Expected("an origin")]
DatabaseUrl = Annotated[str, AfterValidator(_database_url), Expected("an SQLAlchemy URL", secret=True)]
ZonedTime = Annotated[datetime, BeforeValidator(_zoned_time), Expected("a time with its time zone")]
Amount = Annotated[Decimal, BeforeValidator(_decimal)]
AsTuple = BeforeValidator(_tuple)
Listed = BeforeValidator(_listed)

# RFC 9110 section 5.6.2
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110 section 7.6.1, plus the fields that frame or address a message, which the relay sets itself.
_RELAYS_OWN_FIELDS: Mapping[str, str] = {
    **dict.fromkeys(
        ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        "it applies to one connection (hop-by-hop, RFC 9110 section 7.6.1)",
    ),
    **dict.fromkeys(("proxy-authenticate", "proxy-authorization"), "the proxy's password goes into `detour`"),
    "content-length": "it is derived from the body",
    "expect": "it is answered before upstream is contacted",
    "host": "it is derived from the base URL",
}


def _field_name(name: str) -> str:
    if not TOKEN.fullmatch(name):
        raise invalid("the name of a header field: letters, digits and any of !#$%&'*+-.^_`|~", "an invalid name")
    if reason := _RELAYS_OWN_FIELDS.get(name.lower()):
        raise invalid(f"any other field: {reason}", f"the field {name}")
    return name


def _field_values(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str):
            raise invalid("a string or a list of strings")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]", value) or value != value.strip(" \t"):
            raise invalid(
                "a field value: Latin-1 without line breaks, control characters, or leading or trailing spaces",
                "a value that cannot be sent (not shown)",
            )
    return values


FieldName = Annotated[str, AfterValidator(_field_name), Expected("a field name")]
FieldValues = Annotated[
    tuple[Any, ...],
    BeforeValidator(_listed),
    AfterValidator(_field_values),
    Expected("a string or a list of strings", secret=True),
]
