"""The endpoints that the owner adds to the built-in ones."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from ocm_wsgi.config.types import Expected, Flag, StrictModel, invalid
from ocm_wsgi.protocol.endpoints.endpoint import Endpoint
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM, makes_keys

_PREFIX = "/v1/"
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._~-]*[A-Za-z0-9_~-])?"
# The first segment is a word: an endpoint cannot be "anything".
_PATH = re.compile(rf"{_WORD}(?:/(?:{_WORD}|\{{[a-z_]+\}}))*")


def _path(path: str) -> str:
    if not path.startswith(_PREFIX) or not _PATH.fullmatch(path[len(_PREFIX) :]):
        raise invalid(
            'a path such as "/v1/alpha/notes/{note}": words, and {names} that stand for any ID, after the first'
        )
    if makes_keys(path[len(_PREFIX) :]):
        raise invalid(
            "a path that makes no keys or tokens: they would work past this service, and for as long as they are valid",
            f"the path {path}",
        )
    return path


class ExtraEndpoint(StrictModel):
    """An endpoint of OpenAI's that is relayed in addition to the built-in ones."""

    method: Annotated[
        Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        Expected('"GET", "HEAD", "POST", "PUT", "PATCH" or "DELETE"'),
    ]
    path: Annotated[str, AfterValidator(_path), Expected("a path below /v1/")]
    users: Annotated[Literal["admins", "all"], Expected('"admins" or "all"')] = "admins"
    counted: Annotated[Flag | None, Expected("true or false")] = None

    @model_validator(mode="after")
    def _is_new(self) -> ExtraEndpoint:
        if all(table.has(self.path[len(_PREFIX) :], self.method) for table in (CHATGPT, PLATFORM)):
            raise invalid("an endpoint that is not relayed anyway", f"{self.method} {self.path}")
        return self

    @property
    def is_counted(self) -> bool:
        """Whether a request is a turn; by default, if it can change or cost something."""
        return self.method not in ("GET", "HEAD") if self.counted is None else self.counted

    def endpoint(self) -> Endpoint:
        """Return it as a row for the table."""
        return Endpoint(
            self.method,
            self.path[len(_PREFIX) :],
            "other" if self.is_counted else None,
            for_admins=self.users == "admins",
        )
