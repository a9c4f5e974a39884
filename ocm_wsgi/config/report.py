"""Translates pydantic's errors into :class:`ConfigProblem`: the path, what was found and expected, the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ocm_wsgi.config.paths import JsonPath
from ocm_wsgi.config.types import Expected, StrictModel
from ocm_wsgi.errors import ConfigProblem

_EXPECTED_BY_ERROR = {
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "a string",
    "tuple_type": "a list",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "is_instance_of": "a number",
}
_MAX_SHOWN = 60
_MAX_LISTED = 15
_SEE_DOCS = "a key from docs/configuration.md"


def problems(exc: ValidationError, schema: type[StrictModel], locate: Callable[[JsonPath], str]) -> list[ConfigProblem]:
    """Return one problem for each of pydantic's errors.

    :param schema: the model that was validated against.
    :param locate: turns a path within the model into a location that the reader knows.
    """
    return [_problem(error, schema, locate) for error in exc.errors(include_url=False)]


def _problem(error: ErrorDetails, schema: type[StrictModel], locate: Callable[[JsonPath], str]) -> ConfigProblem:
    path: JsonPath = tuple(step for step in error["loc"] if step != "[key]")
    field, model = _declared(schema, path)
    where = locate(path)
    context = error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        expected = "one of " + ", ".join(model.model_fields) if len(model.model_fields) <= _MAX_LISTED else _SEE_DOCS
        return ConfigProblem(where, "an unknown key", expected, nearest(str(path[-1]), model.model_fields))
    if error["type"] == "missing":
        return ConfigProblem(where, "nothing", _expected(field) or "a value")
    if error["type"] == "invalid":
        return ConfigProblem(where, context["found"] or _shown(error["input"], field), context["expected"])
    expected = _expected(field) or _EXPECTED_BY_ERROR.get(error["type"], error["msg"])
    return ConfigProblem(where, _shown(error["input"], field), expected)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to this one, or ``None``."""
    matches = difflib.get_close_matches(name.lower(), list(known), n=1)
    return matches[0] if matches else None


def _declared(model: type[StrictModel], path: JsonPath) -> tuple[FieldInfo | None, type[StrictModel]]:
    """Return the field that the path ends at (``None`` for an unknown key or an item) and its model."""
    field = model.model_fields.get(str(path[0])) if path else None
    if field is None or len(path) == 1:
        return field, model
    inner, depth = _model_within(field.annotation)
    if inner is None:
        return None, model
    remaining = path[1 + depth :]
    return _declared(inner, remaining) if remaining else (None, inner)


def _model_within(annotation: Any) -> tuple[type[StrictModel] | None, int]:
    """Return the model that a field holds, and how many steps deep: 1 for a list or mapping of models."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return annotation, 0
    for part in get_args(annotation):
        inner, depth = _model_within(part)
        if inner is not None:
            return inner, depth + (get_origin(annotation) in (tuple, Mapping))
    return None, 0


def _expected(field: FieldInfo | None) -> str:
    return next((expected.text for expected in _markers(field)), "") if field else ""


def _markers(field: FieldInfo) -> list[Expected]:
    """Return the field's ``Expected`` markers, including those within an optional type."""
    within = (item for part in get_args(field.annotation) for item in getattr(part, "__metadata__", ()))
    return [item for item in (*field.metadata, *within) if isinstance(item, Expected)]


def _shown(value: Any, field: FieldInfo | None) -> str:
    """Describe a value: in full if it is short and its field is known to hold no secret, else by its kind."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    kind = "a string" if isinstance(value, str) else "a flag" if isinstance(value, bool) else "a number"
    if field is None or any(expected.secret for expected in _markers(field)):
        return f"{kind} (not shown)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    shown = value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "…"
    return f'the string "{shown}"' if shown.isprintable() else "a string with control characters"
