"""``flask ocm login`` and ``logout``: the owner's sign-in, on a machine without a browser and without Codex."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import click

from ocm_wsgi.cli.parameters import json_option, yes_option
from ocm_wsgi.config import Config, load
from ocm_wsgi.credentials import sign_in as flows
from ocm_wsgi.credentials.auth_file import Document
from ocm_wsgi.errors import LoginFailed, OcmError
from ocm_wsgi.oauth.authorization import DEVICE_CODE_SECONDS, Authority, AuthorizationCode, authorization_code
from ocm_wsgi.oauth.refresh import Provenance

_FRAMES = "|/-\\"
_FRAME_SECONDS = 0.2
#: How a shell reports a program that Ctrl-C has ended.
_INTERRUPTED = 130


@click.command("login")
@click.option("--browser", is_flag=True, help="Sign in with a browser that need not be on this machine.")
@json_option
@yes_option
def login(browser: bool, as_json: bool, yes: bool) -> None:
    """Sign in to ChatGPT, for the service; Codex is not needed.

    Shows an address and a code to enter there, on any device, and waits up to 15 minutes. The credential is written to
    credential_path, as Codex writes it. A running service takes it up with its next request.

    With --json every line is an object whose "event" says what happened.

    \b
    Examples:
      flask ocm login
      flask ocm login --browser
    """
    told = _Telling(as_json)
    try:
        _sign_in(load(os.environ, Path.cwd()), told, browser=browser, yes=yes)
    except KeyboardInterrupt:
        told.end(LoginFailed("Cancelled; nothing was changed.", code="cancelled"), exit_code=_INTERRUPTED)
    except OcmError as exc:
        told.end(exc)


@click.command("logout", short_help="Sign out, and have OpenAI revoke the tokens.")
@json_option
@yes_option
def logout(as_json: bool, yes: bool) -> None:
    """Sign out: have OpenAI revoke the tokens, and remove them from credential_path.

    Whatever uses the same sign-in ends with it: the service, and a Codex that shares or has copied the file.

    \b
    Example:
      flask ocm logout
    """
    told = _Telling(as_json)
    try:
        _sign_out(load(os.environ, Path.cwd()), told, yes=yes)
    except KeyboardInterrupt:
        told.end(LoginFailed("Cancelled.", code="cancelled"), exit_code=_INTERRUPTED)
    except OcmError as exc:
        told.end(exc)


class _Telling:
    """Says what happens: in sentences to a person, or as one JSON object a line to a program."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._frames = itertools.cycle(_FRAMES)
        self._has_spinner = not as_json and sys.stderr.isatty()

    def event(self, event: str, text: str, **members: object) -> None:
        if self.as_json:
            click.echo(json.dumps({"event": event, **members}))
        else:
            click.echo(text)
        # A program at the other end of a pipe has to show the code while it can still be entered.
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
        """Wait, and let a person see that something still goes on."""
        if not self._has_spinner:
            time.sleep(seconds)
            return
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            minutes, remainder = divmod(int(left_seconds - seconds + rest), 60)
            click.echo(f"\r{next(self._frames)} Waiting for you ... {minutes}:{remainder:02} left ", nl=False, err=True)
            time.sleep(min(rest, _FRAME_SECONDS))

    def clear(self) -> None:
        if self._has_spinner:
            click.echo("\r" + " " * 40 + "\r", nl=False, err=True)

    def asks(self, question: str) -> bool:
        """Ask a person; nobody there to answer means no."""
        if self.as_json or not sys.stdin.isatty():
            return False
        return click.confirm(question, err=True)


def _sign_in(config: Config, told: _Telling, *, browser: bool, yes: bool) -> None:
    standing = flows.current(config.credential_path)
    holder = flows.holder_of(standing) if standing is not None else None
    if holder is not None:
        told.event("found", f"{config.credential_path} holds the credential of {holder}.", **_members(holder))
    issuer = flows.authority(config, os.environ)
    code = _browser_code(issuer, told) if browser else _device_code(issuer, told)
    document = flows.signed_in(issuer.exchange(code), issuer, now_ns=time.time_ns())
    _store(document, config, told, issuer, yes=yes)
    new = flows.holder_of(document)
    assert new is not None
    told.event(
        "signed_in",
        f"Signed in as {new}. The credential is in {config.credential_path}.",
        **_members(new),
        credential_path=str(config.credential_path),
    )


def _device_code(issuer: Authority, told: _Telling) -> AuthorizationCode:
    device = issuer.device_code()
    told.event(
        "device_code",
        f"\n1. Open this address on any device, and sign in to ChatGPT:\n     {device.verification_url}\n\n"
        f"2. Enter this code, within {DEVICE_CODE_SECONDS // 60} minutes:\n     {device.user_code}\n\n"
        "If ChatGPT says that signing in by code is off, switch it on there (Settings, Security), or use --browser.\n",
        verification_url=device.verification_url,
        user_code=device.user_code,
        expires_in_seconds=DEVICE_CODE_SECONDS,
    )
    code = flows.approval(issuer, device, pause=told.pause)
    told.clear()
    return code


def _browser_code(issuer: Authority, told: _Telling) -> AuthorizationCode:
    request = issuer.authorization_request()
    told.event(
        "authorization_url",
        f"\n1. Open this address in a browser, on any machine, and sign in to ChatGPT:\n\n{request.url}\n\n"
        "2. At the end the browser shows that a page at 127.0.0.1 cannot be reached. That is as it should be:\n"
        "   copy the whole address of that page.\n",
        url=request.url,
    )
    if not told.as_json:
        click.echo("3. Paste it here, and press Enter: ", nl=False)
        sys.stdout.flush()
    # Not click.prompt: it would ask again for ever where the line is empty, and strip what a terminal cannot show.
    pasted = sys.stdin.readline()
    if not pasted:
        if not told.as_json:
            click.echo()
        raise LoginFailed("No address was given. Nothing was changed.", code="cancelled")
    return authorization_code(pasted, request)


def _store(document: Document, config: Config, told: _Telling, issuer: Authority, *, yes: bool) -> None:
    """Write the credential; ask before another working one is lost, again if that changes meanwhile."""
    replaced: flows.Holder | None = None
    while True:
        try:
            flows.store(document, config.credential_path, state_path=config.state_path, instead_of=replaced)
            return
        except flows.Occupied as exc:
            replaced = exc.holder
        if not yes and not told.asks(
            f"{config.credential_path} holds the working credential of {replaced}. Replace it?"
        ):
            _forget(document, issuer)
            raise LoginFailed(
                f"{config.credential_path} keeps the working credential of {replaced}. --yes replaces it.",
                code="another_account",
            )


def _forget(document: Document, issuer: Authority) -> None:
    """Have tokens revoked that nobody will use. If that fails they just expire."""
    try:
        issuer.revoke(document.refresh_token or "")
    except LoginFailed:
        return


def _sign_out(config: Config, told: _Telling, *, yes: bool) -> None:
    path = config.credential_path
    if not path.exists():
        told.event("signed_out", f"Nobody is signed in: there is no {path}.", revoked=False)
        return
    standing = flows.current(path)
    holder = flows.holder_of(standing) if standing is not None else None
    question = f"Sign {holder or 'out'}{' out' if holder else ''}? Users of the service will be refused."
    if not yes and not told.asks(question):
        raise LoginFailed("Nothing was changed; --yes signs out without asking.", code="cancelled")

    def issuer_of(provenance: Provenance) -> Authority:
        return flows.authority(config, os.environ, provenance=provenance)

    done = flows.sign_out(path, state_path=config.state_path, issuer_of=issuer_of)
    is_revoked = done.failure is None and standing is not None and standing.refresh_token is not None
    text = "Signed out: the tokens are gone from this machine."
    if is_revoked:
        text += " OpenAI has revoked them."
    elif done.failure is not None:
        text += (
            f"\nOpenAI could not be told to revoke them: {done.failure.message} "
            "To be safe, sign out of all devices in ChatGPT (Settings, Security)."
        )
    told.event("signed_out", text, revoked=is_revoked)


def _members(holder: flows.Holder) -> dict[str, object]:
    return {
        "mode": holder.mode.value,
        "account_id": holder.account_id,
        "email": holder.email,
        "plan_type": holder.plan_type,
    }
