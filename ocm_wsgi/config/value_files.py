"""Reads keys from files of their own: those that ``OCM_<KEY>_FILE`` names, and systemd's credentials.

For secrets, which neither belong in a configuration file that others may read nor in the environment, which every
process of the service inherits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocm_wsgi.config import document, environment
from ocm_wsgi.config.service import scalar_keys
from ocm_wsgi.config.types import PathContext
from ocm_wsgi.errors import ConfigProblem

#: The variable in which systemd names the folder with the service's credentials (systemd.exec(5), LoadCredential=).
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
#: What the names of our credentials begin with; the rest is the key.
CREDENTIAL_PREFIX = "ocm."


@dataclass
class ValueFiles:
    """The keys that are set by files.

    :ivar texts: the content of the file, for each key that holds a single value.
    :ivar members: the value in the file, for each other key.
    :ivar sources: for each key, the variable or credential that names its file.
    """

    texts: dict[str, str] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)

    def relocated(self, problem: ConfigProblem, locations: Mapping[str, str]) -> ConfigProblem:
        """Return a problem as one of the file that it is in, instead of a variable or of the configuration file.

        :param locations: where each key that a file sets would be otherwise.
        """
        for key, source in self.sources.items():
            place = locations.get(key)
            if place is None:
                continue
            if problem.where == place or problem.where.startswith((f"{place}.", f"{place}[")):
                where = source + problem.where.removeprefix(place)
                return ConfigProblem(where, problem.found.replace(place, source), problem.expected, problem.nearest)
        return problem


def read(environ: Mapping[str, str], context: PathContext) -> ValueFiles:
    """Return what the files contain. A key that is set twice, and a file that cannot be read or is empty, are problems.

    :param context: what the variables' relative paths are relative to.
    """
    found = ValueFiles()
    for key, source, path in _files(environ, context, found.problems):
        if environ.get(environment.variable(key)) or key in found.sources:
            other = found.sources.get(key, environment.variable(key))
            found.problems.append(ConfigProblem(source, f"the same key as in {other}", "each key once"))
            continue
        found.sources[key] = source
        text = _text(source, path, found.problems)
        if text is None:
            continue
        if key in scalar_keys():
            found.texts[key] = text
        else:
            value, problems = document.parse(text)
            found.members[key] = value
            found.problems += [ConfigProblem(source, f"{each.where}: {each.found}", each.expected) for each in problems]
    return found


def _files(
    environ: Mapping[str, str], context: PathContext, problems: list[ConfigProblem]
) -> Iterator[tuple[str, str, Path]]:
    """Yield each key with what names its file, and the file."""
    for key in environment.keys_from_files():
        variable = environment.file_variable(key)
        if environ.get(variable):
            yield key, variable, context.path(environ[variable])
    folder = environ.get(CREDENTIALS_VARIABLE)
    if not folder:
        return
    for path in sorted(Path(folder).glob(f"{CREDENTIAL_PREFIX}*")):
        source, key = f"the credential {path.name}", path.name.removeprefix(CREDENTIAL_PREFIX)
        if key in environment.keys_from_files():
            yield key, source, path
        else:
            expected = f"{CREDENTIAL_PREFIX} followed by the name of a key"
            problems.append(ConfigProblem(source, "an unknown key", expected, environment.nearest_key(key)))


def _text(source: str, path: Path, problems: list[ConfigProblem]) -> str | None:
    """Return the content without its last line end, or ``None`` with a problem. A content is never shown."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        problems.append(ConfigProblem(source, f"{path}: {exc.strerror}", "a readable file"))
    except UnicodeDecodeError:
        problems.append(ConfigProblem(source, f"{path}: not UTF-8", "a text file in UTF-8"))
    else:
        text = text.removesuffix("\n").removesuffix("\r")
        if text:
            return text
        problems.append(ConfigProblem(source, f"{path}: empty", "a file with the value"))
    return None
