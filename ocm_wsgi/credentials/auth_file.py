"""The content of ``auth.json``: reading it, and updating it with refreshed tokens. Pure; no I/O.

The file belongs to Codex. Unknown members are preserved at every level.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NoReturn

from ocm_wsgi.credentials.credential import Credential, Mode
from ocm_wsgi.credentials.jwt_claims import auth_claims_of, expires_at, issued_at
from ocm_wsgi.errors import CredentialRejected
from ocm_wsgi.oauth.refresh import Provenance, TokenGrant

SIGN_IN = (
    'sign in with `ocm login`, or with `codex login` and `cli_auth_credentials_store = "file"` in Codex\'s config.toml'
)

#: The other values of `auth_mode` in Codex 0.169, each with a description for messages.
UNUSABLE_MODES = {
    "chatgptAuthTokens": "tokens that another program holds",
    "headers": "custom headers",
    "agentIdentity": "an agent identity",
    "personalAccessToken": "a personal access token",
    "bedrockApiKey": "an Amazon Bedrock key",
}

# What a header field can contain without changing its meaning: RFC 9110 section 5.5, without spaces.
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?(?:([Zz])|([+-]\d\d:\d\d))")


class MalformedDocument(ValueError):
    """The bytes are not a JSON object: half-written, or never an ``auth.json``. The message quotes nothing of them."""


@dataclass(frozen=True)
class Document:
    """The whole content of ``auth.json``. ``repr`` shows none of it."""

    content: Mapping[str, Any] = field(repr=False)

    @property
    def mode(self) -> Mode:
        """The kind of credential: ``auth_mode``, or else inferred from the other members in Codex's order.

        :raises CredentialRejected: this kind of credential cannot be used here.
        """
        name = self.content.get("auth_mode")
        if name is None:
            name = _inferred_mode(self.content)
        try:
            return Mode(name)
        except ValueError:
            kind = UNUSABLE_MODES.get(name, "an unknown kind") if isinstance(name, str) else "an unknown kind"
            raise CredentialRejected(
                f"The owner's Codex credential cannot be used by this service ({kind}). "
                f"The owner must {SIGN_IN}, or use an API key.",
                detail="auth_mode is neither chatgpt nor apikey",
            ) from None

    @property
    def tokens(self) -> Mapping[str, Any]:
        """The OAuth tokens, or an empty mapping."""
        tokens = self.content.get("tokens")
        return tokens if isinstance(tokens, dict) else {}

    @property
    def refresh_token(self) -> str | None:
        """The refresh token, or ``None`` if there is no usable one."""
        return _visible(self.tokens.get("refresh_token"))

    @property
    def provenance(self) -> Provenance:
        """The issuer of the tokens, as far as the file names it."""
        provenance = self.tokens.get("oauth_provenance")
        found = provenance if isinstance(provenance, dict) else {}
        return Provenance(issuer=_visible(found.get("issuer")), client_id=_visible(found.get("client_id")))

    @property
    def fingerprint(self) -> str:
        """A digest that changes with any of the secrets in use, and reveals none of them."""
        secrets = [
            self.tokens.get("access_token"),
            self.tokens.get("refresh_token"),
            self.content.get("OPENAI_API_KEY"),
        ]
        return hashlib.sha256(json.dumps(secrets).encode()).hexdigest()

    def credential(self) -> Credential:
        """Return the part of the document that requests need.

        :raises CredentialRejected: signed out, incomplete, or a kind of credential that cannot be used here.
        """
        return self._api_key() if self.mode is Mode.API_KEY else self._chatgpt()

    def _api_key(self) -> Credential:
        key = self.content.get("OPENAI_API_KEY")
        api_key = _visible(key.strip()) if isinstance(key, str) else None
        if api_key is None:
            _reject_incomplete("OPENAI_API_KEY is missing or is not a single word", "The owner's API key is missing.")
        return Credential(mode=Mode.API_KEY, access_token=api_key)

    def _chatgpt(self) -> Credential:
        access_token = _visible(self.tokens.get("access_token"))
        last_refresh = parse_time(self.content.get("last_refresh"))
        if access_token is None:
            _reject_incomplete("tokens.access_token is missing or is not a single word", "The owner is not signed in.")
        if last_refresh is None:
            _reject_incomplete("last_refresh is missing or is not a timestamp", "The owner's sign-in is incomplete.")
        id_token = self.tokens.get("id_token")
        account = auth_claims_of(id_token if isinstance(id_token, str) else None)
        plan_type = account.get("chatgpt_plan_type")
        return Credential(
            mode=Mode.CHATGPT,
            access_token=access_token,
            account_id=_visible(self.tokens.get("account_id")) or _visible(account.get("chatgpt_account_id")),
            is_fedramp=account.get("chatgpt_account_is_fedramp") is True,
            plan_type=plan_type if isinstance(plan_type, str) else None,
            expires_at=expires_at(access_token),
            issued_at=issued_at(access_token),
            last_refresh=last_refresh,
        )

    def refreshed(self, grant: TokenGrant, *, now_ns: int) -> Document:
        """Return this document with the tokens of ``grant``; tokens that the grant does not contain are unchanged.

        :param now_ns: the new ``last_refresh``, in Unix nanoseconds.
        """
        tokens = {**self.tokens, **grant.tokens()}
        return Document({**self.content, "tokens": tokens, "last_refresh": format_time(now_ns)})

    def encoded(self) -> bytes:
        """Return the content of the file in Codex's layout, escaped to ASCII so that any text can be written."""
        return json.dumps(self.content, indent=2).encode("ascii")


def decode(content: bytes) -> Document:
    """Parse the content of an ``auth.json``.

    :raises MalformedDocument: it is not a JSON object.
    """
    if not content.strip():
        raise MalformedDocument("it is empty")
    try:
        members = json.loads(content)
    except UnicodeDecodeError:
        raise MalformedDocument("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise MalformedDocument("it is not JSON") from None
    if not isinstance(members, dict):
        raise MalformedDocument("it is not a JSON object")
    return Document(members)


def parse_time(value: object) -> float | None:
    """Parse an RFC 3339 timestamp, with any number of fractional digits, as Unix seconds; ``None`` if it is invalid."""
    matched = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if matched is None:
        return None
    date, time, fraction, _, offset = matched.groups()
    try:
        seconds = datetime.fromisoformat(f"{date}T{time}{offset or '+00:00'}").timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds + float(fraction or 0)


def format_time(now_ns: int) -> str:
    """Format Unix nanoseconds as Codex does: RFC 3339, UTC, nine fractional digits."""
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _inferred_mode(content: Mapping[str, Any]) -> str:
    if content.get("personal_access_token"):
        return "personalAccessToken"
    if content.get("bedrock_api_key") or content.get("bedrock_access_keys"):
        return "bedrockApiKey"
    return Mode.API_KEY.value if content.get("OPENAI_API_KEY") else Mode.CHATGPT.value


def _visible(value: object) -> str | None:
    return value if isinstance(value, str) and _VISIBLE.fullmatch(value) else None


def _reject_incomplete(detail: str, sentence: str) -> NoReturn:
    raise CredentialRejected(f"{sentence} The owner must {SIGN_IN}.", detail=detail)
