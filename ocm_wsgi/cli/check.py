"""``ocm check``: diagnoses problems and says how to fix them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import click
from pydantic import SecretStr

from ocm_wsgi.admission.measurability import require_measurable_configuration
from ocm_wsgi.checks import (
    Finding,
    Level,
    configuration,
    credential,
    prices,
    reachability,
    server,
    sharing,
    state,
    users,
)
from ocm_wsgi.checks.address import Address
from ocm_wsgi.checks.address import findings as address_findings
from ocm_wsgi.cli.output import echo_json
from ocm_wsgi.cli.parameters import json_option
from ocm_wsgi.config import AccountConfig, Config, load
from ocm_wsgi.credentials import Mode
from ocm_wsgi.credentials.sign_in import current, owner_of
from ocm_wsgi.errors import ConfigurationError, LoginFailed
from ocm_wsgi.pools.members import require_subscriptions

_MARKS = {Level.OK: "ok", Level.NOTE: "note", Level.WARNING: "WARNING", Level.PROBLEM: "PROBLEM"}
_DEFAULT_SILENCE_SECONDS = 65


@click.command("check", short_help="Diagnose problems and say how to fix them.")
@click.option("--url", metavar="URL", help="Also check this public address of the service, end to end.")
@click.option(
    "--silence",
    type=click.IntRange(0, 300),
    default=_DEFAULT_SILENCE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="With --url: seconds of silence to test (0 skips it).",
)
@click.option("--only-configuration", is_flag=True, help="Check only the configuration, e.g. before a reload.")
@json_option
def check(url: str | None, silence: int, only_configuration: bool, as_json: bool) -> None:
    """Diagnose problems and say how to fix them.

    Checks the configuration, the credential, the state, the clock, the connection to OpenAI, the prices and gunicorn's
    settings. Run it where the service is started, as its user and with its environment. Changes nothing and uses
    nothing of the subscription. Exits with 1 if there is a problem.

    \b
    Examples:
      ocm check
      ocm check --url https://ocm.example.org
      ocm check --only-configuration
      ocm check --json
    """
    if url and only_configuration:
        raise click.UsageError("--url and --only-configuration cannot be combined.")
    address = _address(url) if url else None
    # The findings report what the modules would otherwise log.
    logging.getLogger("ocm_wsgi").addHandler(logging.NullHandler())
    found = []
    for finding in _findings(address, silence, only_configuration=only_configuration):
        found.append(finding)
        if not as_json:
            _show(finding)
    is_sound = all(finding.level is not Level.PROBLEM for finding in found)
    if as_json:
        echo_json({"ok": is_sound, "findings": [_members(finding) for finding in found]})
    else:
        _conclude(found)
    raise SystemExit(0 if is_sound else 1)


def _findings(address: Address | None, silence_seconds: int, *, only_configuration: bool) -> Iterator[Finding]:
    try:
        config = load(os.environ, Path.cwd())
        require_measurable_configuration(config)
        require_subscriptions(config)
    except ConfigurationError as exc:
        yield from configuration.broken(exc)
        return
    yield from configuration.findings(config)
    if only_configuration:
        return
    yield from credential.findings(config, os.environ)
    yield from sharing.findings(config)
    yield from state.findings(config)
    yield from users.findings(config)
    for account, is_chatgpt in _reached(config):
        yield from reachability.findings(config, account, is_chatgpt=is_chatgpt)
    yield from prices.findings()
    yield from prices.unpriced(config)
    yield from server.findings(config)
    if address is not None:
        yield from address_findings(address, config.state_path, silence_seconds=silence_seconds)


def _reached(config: Config) -> list[tuple[AccountConfig, bool]]:
    """Return one account for each way in which OpenAI is reached, and whether its credential is for ChatGPT."""
    found: dict[tuple[SecretStr | None, bool], tuple[AccountConfig, bool]] = {}
    for account in config.accounts:
        is_chatgpt = _is_chatgpt(account)
        found.setdefault((account.proxy_url, is_chatgpt), (account, is_chatgpt))
    return list(found.values())


def _is_chatgpt(account: AccountConfig) -> bool:
    """Return whether the credential is for ChatGPT; without a credential, assume the kind that signing in creates."""
    try:
        document = current(account.credential_path)
    except LoginFailed:
        return True
    owner = owner_of(document) if document is not None else None
    return owner is None or owner.mode is Mode.CHATGPT


def _address(url: str) -> Address:
    try:
        return Address.parse(url)
    except ValueError as exc:
        raise click.BadParameter(f"{exc}.", param_hint="--url") from None


def _show(finding: Finding) -> None:
    click.echo(f"{_MARKS[finding.level]:<8} {finding.subject}: {finding.text}")
    if finding.remedy:
        click.echo(f"{'':<8} -> {finding.remedy}")


def _conclude(found: list[Finding]) -> None:
    problems = sum(finding.level is Level.PROBLEM for finding in found)
    warnings = sum(finding.level is Level.WARNING for finding in found)
    click.echo(
        f"\n{problems or 'No'} problem{'' if problems == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}."
    )


def _members(finding: Finding) -> dict[str, str]:
    return {
        "subject": finding.subject,
        "code": finding.code,
        "level": finding.level.value,
        "text": finding.text,
        "remedy": finding.remedy,
    }
