"""The service as a gunicorn application: our settings and our WSGI application, with gunicorn's own options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication

#: gunicorn's names for the settings and the application of this package.
SETTINGS = "python:ocm_wsgi.gunicorn_conf"
APPLICATION = "ocm_wsgi.wsgi:app"


class Server(WSGIApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn, run with these options instead of those of the process.

    :param options: as on gunicorn's command line, without an application.
    """

    def __init__(self, options: Sequence[str]) -> None:
        self._options = list(options)
        super().__init__("%(prog)s [OPTIONS]", prog="ocm serve")

    def load_config(self) -> None:
        """Load gunicorn's settings: those of this package, of GUNICORN_CMD_ARGS, then of the options."""
        self.app_uri = APPLICATION
        self.cfg.set("default_proc_name", "ocm")
        parser = self.cfg.parser()
        given = parser.parse_args(self._options)
        from_environment = parser.parse_args(self.cfg.get_cmd_args_from_env())
        self.load_config_from_file(given.config or from_environment.config or SETTINGS)
        for arguments in (from_environment, given):
            self._set(vars(arguments))
        self.chdir()

    def chdir(self) -> None:
        """Change to the folder of ``--chdir``. Unlike gunicorn, import nothing from there."""
        os.chdir(self.cfg.chdir)

    def _set(self, arguments: dict[str, Any]) -> None:
        for name, value in arguments.items():
            if value is not None and name != "args":
                self.cfg.set(name.lower(), value)
