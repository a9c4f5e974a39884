"""Reads ``OCM_<KEY>`` variables and detects likely typos in their names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, get_args

from ocm_wsgi.config.service import Service, scalar_keys
from ocm_wsgi.errors import ConfigProblem

PREFIX = "OCM_"
FILE_VARIABLE = "OCM_CONFIG"
FILE_SUFFIX = "_FILE"
# The keys with more than one value that contain secrets.
_STRUCTURED_SECRETS = ("users", "headers")
# How similar to a known name (difflib's ratio, 0 to 1) a variable must be to count as a typo and not as unrelated:
# OCM_LISTEN_PROT does (0.91); OCM_SERVICE_PORT, which Kubernetes sets for a service named ocm, does not (0.52).
_TYPO_SIMILARITY = 0.8
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def variable(key: str) -> str:
    """Return the name of the variable that sets a key."""
    return PREFIX + key.upper()


def file_variable(key: str) -> str:
    """Return the name of the variable that names a file with the value of a key."""
    return f"{variable(key)}{FILE_SUFFIX}"


def keys_from_files() -> tuple[str, ...]:
    """Return the keys that files of their own can set: those of variables, and those that contain secrets."""
    return (*scalar_keys(), *_STRUCTURED_SECRETS)


def nearest_key(name: str) -> str | None:
    """Return the key of :func:`keys_from_files` that was probably intended, or ``None``."""
    matches = difflib.get_close_matches(name.lower(), keys_from_files(), n=1, cutoff=_TYPO_SIMILARITY)
    return matches[0] if matches else None


def read(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[ConfigProblem], list[str]]:
    """Return the keys set, the problems and the warnings. An empty variable counts as unset.

    Variables that name files of values are left to :mod:`ocm_wsgi.config.value_files`.
    Text is converted to numbers and flags where possible; other text is left for the schema to reject.
    """
    keys = {variable(key): key for key in scalar_keys()}
    structured = {variable(key): key for key in (*Service.model_fields, "certificate", "outbounds")}
    files = {file_variable(key) for key in keys_from_files()}
    values: dict[str, Any] = {}
    problems: list[ConfigProblem] = []
    warnings: list[str] = []
    for name in sorted(name for name in environ if name.startswith(PREFIX) and name != FILE_VARIABLE):
        if name in keys:
            if environ[name]:
                values[keys[name]] = _typed(keys[name], environ[name])
        elif name in structured:
            problems.append(ConfigProblem(name, "a variable", _expected_place(structured[name])))
        elif name in files:
            continue
        elif nearest := _nearest(name, [*keys, FILE_VARIABLE, *sorted(files)]):
            problems.append(ConfigProblem(name, "an unknown variable", "OCM_ followed by the name of a key", nearest))
        else:
            warnings.append(f"{name} in the environment is not a setting of this service and is ignored")
    return values, problems, warnings


def _expected_place(key: str) -> str:
    own_file = f" or in the one that {file_variable(key)} names," if key in _STRUCTURED_SECRETS else " only,"
    return f"{key} in the file{own_file} as it holds more than one value"


def _nearest(name: str, known: list[str]) -> str | None:
    bare = {other.removeprefix(PREFIX): other for other in known}
    matches = difflib.get_close_matches(name.upper().removeprefix(PREFIX), bare, n=1, cutoff=_TYPO_SIMILARITY)
    return bare[matches[0]] if matches else None


def _typed(key: str, text: str) -> Any:
    annotation = Service.model_fields[key].annotation
    kinds = {annotation, *get_args(annotation)}
    if int in kinds and re.fullmatch(r"[+-]?\d+", text.strip()):
        return int(text)
    if bool in kinds:
        return _FLAGS.get(text.strip().lower(), text)
    return text
