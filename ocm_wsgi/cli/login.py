"""``ocm login`` and ``logout``: the owner's sign-in, without needing a browser or Codex on this machine."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import click

from ocm_wsgi.cli.parameters import chosen_account, credential_option, json_option, yes_option
from ocm_wsgi.config import AccountConfig, Config, load
from ocm_wsgi.credentials import sign_in as flows
from ocm_wsgi.credentials.auth_file import Document
from ocm_wsgi.errors import LoginFailed, OcmError
from ocm_wsgi.oauth.authorization import DEVICE_CODE_SECONDS, AuthorizationCode, IssuerClient, authorization_code
from ocm_wsgi.oauth.refresh import Provenance

_FRAMES = "|/-\\"
_FRAME_SECONDS = 0.2
# The exit code by which shells report a program interrupted by Ctrl-C.
_INTERRUPTED = 130


@click.command("login")
@click.option("--browser", is_flag=True, help="Sign in with a browser, on this or any other machine.")
@credential_option
@json_option
@yes_option
def login(browser: bool, credential: str | None, as_json: bool, yes: bool) -> None:
    """Sign the service in to ChatGPT; Codex is not needed.

    Shows a URL and a code to enter there, on any device, and waits up to 15 minutes. The credential is written to
    credential_path in Codex's format. A running service uses it from its next request on.

    With --json, every line is an object whose "event" says what happened.

    \b
    Examples:
      ocm login
      ocm login --browser
      ocm login --credential work
    """
    reporter = _Reporter(as_json)
    try:
        config = load(os.environ, Path.cwd())
        _sign_in(config, chosen_account(config, credential), reporter, browser=browser, yes=yes)
    except KeyboardInterrupt:
        reporter.end(LoginFailed("Cancelled; nothing was changed.", code="cancelled"), exit_code=_INTERRUPTED)
    except OcmError as exc:
        reporter.end(exc)


@click.command("logout", short_help="Sign out and revoke the tokens.")
@credential_option
@json_option
@yes_option
def logout(credential: str | None, as_json: bool, yes: bool) -> None:
    """Sign out: revoke the tokens at OpenAI and remove them from credential_path.

    This ends everything that uses the same sign-in: the service, and Codex if it shares or copied the file.

    \b
    Example:
      ocm logout
    """
    reporter = _Reporter(as_json)
    try:
        config = load(os.environ, Path.cwd())
        _sign_out(config, chosen_account(config, credential), reporter, yes=yes)
    except KeyboardInterrupt:
        reporter.end(LoginFailed("Cancelled.", code="cancelled"), exit_code=_INTERRUPTED)
    except OcmError as exc:
        reporter.end(exc)


class _Reporter:
    """Reports progress: as sentences for people, or as JSON for programs, one object per line."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._frames = itertools.cycle(_FRAMES)
        self._has_spinner = not as_json and sys.stderr.isatty()

    def event(self, event: str, text: str, **members: object) -> None:
        if self.as_json:
            click.echo(json.dumps({"event": event, **members}))
        else:
            click.echo(text)
        # A program reading from a pipe has to show the code before it expires.
        sys.stdout.flush()

    def end(self, exc: OcmError, *, exit_code: int = 1) -> NoReturn:
        self.clear()
        if self.as_json:
            click.echo(json.dumps({"event": "failed", "code": exc.code, "message": exc.message}))
        else:
            detail = f" ({exc.detail})" if exc.detail else ""
            click.echo(f"Error: {exc.message}{detail}", err=True)
        raise SystemExit(exit_code)

    def pause(self, seconds: float, left_seconds: float) -> None:
        """Sleep, showing a spinner on a terminal."""
        if not self._has_spinner:
            time.sleep(seconds)
            return
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            minutes, remainder = divmod(int(left_seconds - seconds + remaining), 60)
            click.echo(f"\r{next(self._frames)} Waiting for you ... {minutes}:{remainder:02} left ", nl=False, err=True)
            time.sleep(min(remaining, _FRAME_SECONDS))

    def clear(self) -> None:
        if self._has_spinner:
            click.echo("\r" + " " * 40 + "\r", nl=False, err=True)

    def confirm(self, question: str) -> bool:
        """Ask for confirmation; without a terminal the answer is no."""
        if self.as_json or not sys.stdin.isatty():
            return False
        return click.confirm(question, err=True)


def _sign_in(config: Config, account: AccountConfig, reporter: _Reporter, *, browser: bool, yes: bool) -> None:
    path = account.credential_path
    existing = flows.current(path)
    owner = flows.owner_of(existing) if existing is not None else None
    if owner is not None:
        reporter.event("found", f"{path} holds the credential of {owner}.", **_members(owner))
    issuer = flows.issuer_client(config, account, os.environ)
    code = _browser_code(issuer, reporter) if browser else _device_code(issuer, reporter)
    document = flows.document_from(issuer.exchange(code), issuer, now_ns=time.time_ns())
    _store(document, path, config.state_path, reporter, issuer, yes=yes)
    new = flows.owner_of(document)
    assert new is not None
    reporter.event(
        "signed_in",
        f"Signed in as {new}. The credential is in {path}.",
        **_members(new),
        credential_path=str(path),
    )


def _device_code(issuer: IssuerClient, reporter: _Reporter) -> AuthorizationCode:
    device = issuer.device_code()
    reporter.event(
        "device_code",
        f"\n1. Open this address on any device, and sign in to ChatGPT:\n     {device.verification_url}\n\n"
        f"2. Enter this code, within {DEVICE_CODE_SECONDS // 60} minutes:\n     {device.user_code}\n\n"
        "If ChatGPT says that signing in by code is disabled, enable it there (Settings, Security) or use --browser.\n",
        verification_url=device.verification_url,
        user_code=device.user_code,
        expires_in_seconds=DEVICE_CODE_SECONDS,
    )
    code = flows.wait_for_approval(issuer, device, pause=reporter.pause)
    reporter.clear()
    return code


def _browser_code(issuer: IssuerClient, reporter: _Reporter) -> AuthorizationCode:
    request = issuer.authorization_request()
    reporter.event(
        "authorization_url",
        f"\n1. Open this address in a browser, on any machine, and sign in to ChatGPT:\n\n{request.url}\n\n"
        "2. At the end, the browser fails to load a page at 127.0.0.1. This is expected:\n"
        "   copy the whole URL of that page.\n",
        url=request.url,
    )
    if not reporter.as_json:
        click.echo("3. Paste it here, and press Enter: ", nl=False)
        sys.stdout.flush()
    # Not click.prompt, which would repeat forever on an empty line and strip unprintable characters.
    pasted = sys.stdin.readline()
    if not pasted:
        if not reporter.as_json:
            click.echo()
        raise LoginFailed("No URL was entered. Nothing was changed.", code="cancelled")
    return authorization_code(pasted, request)


def _store(
    document: Document, path: Path, state_path: Path, reporter: _Reporter, issuer: IssuerClient, *, yes: bool
) -> None:
    """Write the credential. Ask before replacing another account's working one, and again if that changes meanwhile."""
    replaced: flows.CredentialOwner | None = None
    while True:
        try:
            flows.store(document, path, state_path=state_path, instead_of=replaced)
            return
        except flows.OtherAccountSignedIn as exc:
            replaced = exc.owner
        if not yes and not reporter.confirm(f"{path} holds the working credential of {replaced}. Replace it?"):
            _forget(document, issuer)
            raise LoginFailed(
                f"{path} still holds the working credential of {replaced}. Use --yes to replace it.",
                code="another_account",
            )


def _forget(document: Document, issuer: IssuerClient) -> None:
    """Revoke tokens that will not be used. If that fails, they simply expire."""
    try:
        issuer.revoke(document.refresh_token or "")
    except LoginFailed:
        return


def _sign_out(config: Config, account: AccountConfig, reporter: _Reporter, *, yes: bool) -> None:
    path = account.credential_path
    if not path.exists():
        reporter.event("signed_out", f"Not signed in: {path} does not exist.", revoked=False)
        return
    existing = flows.current(path)
    owner = flows.owner_of(existing) if existing is not None else None
    question = f"Sign {owner or 'out'}{' out' if owner else ''}? Users of the service will be refused."
    if not yes and not reporter.confirm(question):
        raise LoginFailed("Nothing was changed. Use --yes to sign out without confirmation.", code="cancelled")

    def issuer_of(provenance: Provenance) -> IssuerClient:
        return flows.issuer_client(config, account, os.environ, provenance=provenance)

    done = flows.sign_out(path, state_path=config.state_path, issuer_of=issuer_of)
    is_revoked = done.failure is None and existing is not None and existing.refresh_token is not None
    text = "Signed out: the tokens were removed from this machine."
    if is_revoked:
        text += " OpenAI has revoked them."
    elif done.failure is not None:
        text += (
            f"\nRevoking them at OpenAI failed: {done.failure.message} "
            "To be safe, sign out of all devices in ChatGPT (Settings, Security)."
        )
    reporter.event("signed_out", text, revoked=is_revoked)


def _members(owner: flows.CredentialOwner) -> dict[str, object]:
    return {
        "mode": owner.mode.value,
        "account_id": owner.account_id,
        "email": owner.email,
        "plan_type": owner.plan_type,
    }
