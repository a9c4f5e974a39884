"""The configuration: its source, its problems and warnings, and the permissions of its file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import Config
from ocm_wsgi.errors import ConfigurationError

_SUBJECT = Subject("configuration")


def broken(exc: ConfigurationError) -> Iterator[Finding]:
    """Yield a finding for each problem in it."""
    for problem in exc.problems:
        hint = f", perhaps {problem.nearest}" if problem.nearest else ""
        yield _SUBJECT.problem(
            "mistake", f"{problem.where}: found {problem.found}.", f"Expected {problem.expected}{hint}."
        )


def findings(config: Config) -> Iterator[Finding]:
    """Check a valid configuration."""
    if config.source == "defaults":
        yield _SUBJECT.note(
            "source", "There is no configuration file; all settings are defaults.", "Name a file with OCM_CONFIG."
        )
    else:
        yield _SUBJECT.ok("source", f"Read from {config.source}.")
        yield from _privacy(Path(config.source), config)
    yield from _added(config)
    for warning in config.warnings:
        yield _SUBJECT.warning("caution", f"{warning}.", "See docs/configuration.md.")


def _added(config: Config) -> Iterator[Finding]:
    """Show what the configuration opens."""
    for endpoint in config.extra_endpoints:
        who = "admins only" if endpoint.users == "admins" else "all users"
        counted = "counted as a turn" if endpoint.is_counted else "not counted"
        yield _SUBJECT.note("extra_endpoint", f"{endpoint.method} {endpoint.path} is relayed for {who}, {counted}.")
    if config.allow_origins:
        yield _SUBJECT.note(
            "origins", f"Web pages of these origins may use the API: {', '.join(config.allow_origins)}."
        )


def _privacy(path: Path, config: Config) -> Iterator[Finding]:
    holds_secrets = bool(config.users or config.proxy_url or config.headers)
    if holds_secrets and os.stat(path).st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield _SUBJECT.warning(
            "readable", f"Everyone on this machine can read the secrets in {path}.", f"chmod o= {path}"
        )
    if os.stat(path).st_mode & stat.S_IWOTH:
        yield _SUBJECT.problem("writable", f"Everyone on this machine can change {path}.", f"chmod o= {path}")
