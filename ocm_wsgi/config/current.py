"""This process's configuration: loaded once, inherited by forked workers, reloaded at HUP."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ocm_wsgi.config.loader import load
from ocm_wsgi.config.service import Config
from ocm_wsgi.errors import ConfigurationError

# Reloads happen in gunicorn's master, whose other lines go to this logger.
_log = logging.getLogger("gunicorn.error")


class _State:
    """The current configuration, and the one that the process started with."""

    current: Config | None = None
    initial: Config | None = None


def config() -> Config:
    """Return the configuration, loading it on first use. If it is invalid, print its problems and exit with 1."""
    if _State.current is None:
        _load_initial(None)
    assert _State.current is not None
    return _State.current


def initial_config() -> Config:
    """Return the configuration that the process started with, ignoring reloads."""
    loaded = config()
    return _State.initial or loaded


def reload(prepare: Callable[[Config], None] | None = None) -> Config:
    """Load the configuration again; if it is invalid now, log its problems and keep the last valid one.

    Called by way of gunicorn.conf.py, which gunicorn executes at startup and again in the master at each HUP. Workers
    forked afterwards inherit the configuration.

    :param prepare: called with the new configuration before it takes effect; may raise
        :class:`ConfigurationError`, which rejects the new configuration.
    """
    if _State.current is None:
        _load_initial(prepare)
        return config()
    try:
        _State.current = _loaded(prepare)
    except ConfigurationError as exc:
        _log.error("%s\nKeeping the last valid configuration.", exc)
    return config()


def _load_initial(prepare: Callable[[Config], None] | None) -> None:
    try:
        _State.current = _State.initial = _loaded(prepare)
    except ConfigurationError as exc:
        print(exc, file=sys.stderr, flush=True)
        raise SystemExit(exc.exit_code) from None


def _loaded(prepare: Callable[[Config], None] | None) -> Config:
    loaded = load(environ=os.environ, cwd=Path.cwd())
    if prepare is not None:
        prepare(loaded)
    return loaded
