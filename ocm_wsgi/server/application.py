"""The service as a gunicorn application: our settings and our WSGI application, with gunicorn's own options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NoReturn

from gunicorn.app.wsgiapp import WSGIApplication

#: gunicorn's names for the settings and the application of this package.
SETTINGS = "python:ocm_wsgi.gunicorn_conf"
APPLICATION = "ocm_wsgi.wsgi:app"


class InvalidOptions(BaseException):
    """The options are not gunicorn's; the message says which. No ``Exception``: gunicorn would print and exit."""


class Server(WSGIApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn, run with these options instead of those of the process.

    :param options: as on gunicorn's command line, without an application.
    :raises InvalidOptions: they, or those in GUNICORN_CMD_ARGS, are invalid.
    """

    def __init__(self, options: Sequence[str]) -> None:
        self._options = list(options)
        super().__init__("%(prog)s [OPTIONS]", prog="ocm serve")

    def load_config(self) -> None:
        """Load gunicorn's settings: those of this package, of GUNICORN_CMD_ARGS, then of the options."""
        self.app_uri = APPLICATION
        self.cfg.set("default_proc_name", "ocm")
        from_environment = self._parsed(self.cfg.get_cmd_args_from_env(), " in GUNICORN_CMD_ARGS")
        given = self._parsed(self._options, "")
        self.load_config_from_file(given.get("config") or from_environment.get("config") or SETTINGS)
        for name, value in (from_environment | given).items():
            self.cfg.set(name.lower(), value)
        self.chdir()

    def chdir(self) -> None:
        """Change to the folder of ``--chdir``. Unlike gunicorn, import nothing from there."""
        os.chdir(self.cfg.chdir)

    def _parsed(self, options: Sequence[str], where: str) -> dict[str, Any]:
        """Return the settings given."""
        parser = self.cfg.parser()

        def refuse(message: str) -> NoReturn:
            raise InvalidOptions(f"{message}{where}")

        parser.error = refuse
        given = vars(parser.parse_args(options))
        if given.pop("args"):
            refuse("an application cannot be given; gunicorn runs others")
        return {name: value for name, value in given.items() if value is not None}
