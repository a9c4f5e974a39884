"""Builds the configuration from defaults, then the file, then the environment, and reports all problems together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr, ValidationError

from ocm_wsgi.config import (
    credential_checks,
    cross_checks,
    document,
    environment,
    outbounds,
    paths,
    report,
    unsupported_keys,
    value_files,
)
from ocm_wsgi.config.cautions import cautions
from ocm_wsgi.config.credential_entries import Entries, EntryReader
from ocm_wsgi.config.credentials import only_account
from ocm_wsgi.config.paths import JsonPath, json_path
from ocm_wsgi.config.selection import Selection, select
from ocm_wsgi.config.service import Config, Service
from ocm_wsgi.config.tls import TLS, Certificate
from ocm_wsgi.config.types import PathContext, StrictModel
from ocm_wsgi.config.value_files import ValueFiles
from ocm_wsgi.errors import ConfigProblem, ConfigurationError

DEFAULT_FILE = "ocm.json"
_TAGS_OF_USER = frozenset({"credential", "external_credential"})
_T = TypeVar("_T", bound=StrictModel)


def load(environ: Mapping[str, str], cwd: Path) -> Config:
    """Return the configuration given by the environment and its file.

    Reads the file and the certificates that it names; writes nothing and opens no connections.

    :param environ: ``OCM_CONFIG`` names the file, ``OCM_<KEY>`` sets a key and overrides the file, ``OCM_<KEY>_FILE``
        and systemd's credentials do so with the content of another file.
    :param cwd: the folder to look for ``ocm.json`` in, and the base of relative paths.
    :raises ConfigurationError: with every problem in the file and the environment.
    """
    return _Loader(environ, cwd).config()


class _Loader:
    """Loads the configuration once, collecting problems on the way."""

    def __init__(self, environ: Mapping[str, str], cwd: Path) -> None:
        self.environ = environ
        self.cwd = cwd
        self.path_context = PathContext(cwd=cwd, home=paths.home(environ))
        self.problems: list[ConfigProblem] = []
        self.source = "defaults"

    def config(self) -> Config:
        files = value_files.read(self.environ, self.path_context)
        selection = self._selection(files.members)
        texts = {environment.variable(key): text for key, text in files.texts.items()}
        variables, problems, warnings = environment.read({**self.environ, **texts})
        self.problems += files.problems + problems
        members = self._supported_members(selection)
        defaults = self._defaults({**members, **variables})
        self._validated(Service, {**defaults, **members}, lambda path: json_path((*selection.path, *path)))
        self._validated(Service, {**defaults, **variables}, lambda path: environment.variable(str(path[0])))
        self.problems += cross_checks.duplicates(members, selection.path)
        tls = self._tls(members, selection.path)
        certificate = self._certificate(selection)
        proxy_url = self._proxy_url(members, variables, selection)
        entries = self._credentials(members, variables, selection)
        if self.problems or certificate is None:
            raise ConfigurationError(self.source, self._located_problems(files, selection.path))
        service = Service.model_validate({**defaults, **members, **variables}, context=self.path_context)
        settings = {key: getattr(service, key) for key in Service.model_fields}
        accounts = entries.accounts or (
            only_account(service.credential_path, service.usages_path, SecretStr(proxy_url) if proxy_url else None),
        )
        return Config.model_construct(
            **{**settings, "tls": tls if tls and tls.enabled else None, "credentials": entries.entries},
            accounts=accounts,
            pools=entries.pools,
            first_credential=entries.entries[0].tag if entries.entries else accounts[0].tag,
            proxy_url=SecretStr(proxy_url) if proxy_url else None,
            certificate=certificate,
            source=self.source,
            warnings=(*warnings, *entries.warnings, *cautions(service, tls)),
        )

    def _located_problems(self, files: ValueFiles, path: JsonPath) -> list[ConfigProblem]:
        """Return each problem once, at the place where the owner can fix it."""
        locations = {key: environment.variable(key) for key in files.texts}
        locations |= {key: json_path((*path, key)) for key in files.members}
        return list(dict.fromkeys(files.relocated(problem, locations) for problem in self.problems))

    def _selection(self, overrides: Mapping[str, Any]) -> Selection:
        """Return the entry in the file, with these keys instead of its own."""
        selection = self._selection_in_file()
        return replace(selection, members={**selection.members, **overrides})

    def _selection_in_file(self) -> Selection:
        text = self._text()
        if text is None:
            return Selection()
        value, problems = document.parse(text)
        self.problems += problems
        if value is None and problems:
            return Selection()
        selection = select(value)
        self.problems += selection.problems
        return selection

    def _text(self) -> str | None:
        """Return the file's text, or ``None`` without a file. A file named by ``OCM_CONFIG`` must exist."""
        named = self.environ.get(environment.FILE_VARIABLE)
        path = self.path_context.path(named or DEFAULT_FILE)
        if not named and not path.exists():
            return None
        self.source = str(path)
        where = environment.FILE_VARIABLE if named else DEFAULT_FILE
        try:
            return path.read_text(encoding="utf-8")
        except OSError as exc:
            self.problems.append(ConfigProblem(where, f"{path}: {exc.strerror}", "a readable file"))
        except UnicodeDecodeError:
            self.problems.append(ConfigProblem(where, f"{path}: not UTF-8", "a text file in UTF-8"))
        return None

    def _supported_members(self, selection: Selection) -> dict[str, Any]:
        """Return the entry's keys without unsupported and empty ones, including those of its TLS."""
        members, problems = unsupported_keys.remove_unsupported(
            selection.members, unsupported_keys.SERVICE, selection.path
        )
        self.problems += problems
        members = _without_unset(members)
        if isinstance(members.get("tls"), dict):
            path = (*selection.path, "tls")
            members["tls"], problems = unsupported_keys.remove_unsupported(
                _without_unset(members["tls"]), unsupported_keys.TLS, path
            )
            self.problems += problems if members["tls"].get("enabled") is True else []
        if isinstance(members.get("users"), list):
            members["users"] = [_without_unset_credentials(user) for user in members["users"]]
        return members

    def _defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults that depend on the home folder and on ``state_path``."""
        defaults = {
            "credential_path": paths.credential_path(self.environ),
            "state_path": paths.state_path(self.environ),
        }
        for key, value in defaults.items():
            if value is None:
                defaults[key] = str(self.cwd)
                is_unused = key == "credential_path" and given.get("credentials")
                if key not in given and not is_unused:
                    self.problems.append(
                        ConfigProblem(environment.variable(key), "no home folder for its default", "a path")
                    )
        state_path = given.get("state_path")
        folder = state_path if isinstance(state_path, str) else str(defaults["state_path"])
        return {**defaults, "database_url": f"sqlite:///{self.path_context.path(folder) / 'ocm.db'}"}

    def _validated(self, schema: type[_T], members: Any, locate: Callable[[JsonPath], str]) -> _T | None:
        try:
            return schema.model_validate(members, context=self.path_context)
        except ValidationError as exc:
            self.problems += report.problems(exc, schema, locate)
            return None

    def _credentials(self, members: Mapping[str, Any], variables: Mapping[str, Any], selection: Selection) -> Entries:
        """Check the credentials, and what users name among them."""
        found, users = (
            value if isinstance(value := members.get(key), list) else [] for key in ("credentials", "users")
        )
        path = (*selection.path, "credentials")
        reader = EntryReader(path, self.path_context, paths.credential_path(self.environ), selection.outbounds)
        entries = reader.read(found)
        self.problems += reader.problems
        if found:
            where = {key: json_path((*selection.path, key)) for key in members}
            where.update({key: environment.variable(key) for key in variables})
            self.problems += credential_checks.mixed(where, where)
        self.problems += credential_checks.users(users, found, (*selection.path, "users"))
        return entries

    def _tls(self, members: Mapping[str, Any], path: JsonPath) -> TLS | None:
        """Check TLS as a whole by loading its certificates. Invalid keys were reported with the rest of the service."""
        settings = members.get("tls", {})
        problems = cross_checks.server_tls(settings, (*path, "tls")) if isinstance(settings, dict) else []
        try:
            tls = TLS.model_validate(settings, context=self.path_context)
        except ValidationError:
            tls = None
        if tls is not None and not problems:
            problems = cross_checks.server_certificates(tls, (*path, "tls"))
        self.problems += problems
        return tls

    def _certificate(self, selection: Selection) -> Certificate | None:
        path: JsonPath = ("certificate",)
        members = {} if selection.certificate is None else selection.certificate
        if isinstance(members, dict):
            members, problems = unsupported_keys.remove_unsupported(
                _without_unset(members), unsupported_keys.CERTIFICATE, path
            )
            self.problems += problems
        certificate = self._validated(Certificate, members, lambda step: json_path((*path, *step)))
        if certificate is not None:
            self.problems += cross_checks.trusted_certificates(certificate, self.environ, path)
        return certificate

    def _proxy_url(self, members: Mapping[str, Any], variables: Mapping[str, Any], selection: Selection) -> str | None:
        where = json_path((*selection.path, "detour"))
        detour = members.get("detour")
        if "detour" in variables:
            where, detour = environment.variable("detour"), variables["detour"]
        if not isinstance(detour, str):
            return None
        url, problems = outbounds.proxy_url(detour, selection.outbounds, where=where, path=("outbounds",))
        self.problems += problems
        return url


def _without_unset_credentials(user: Any) -> Any:
    """Drop a user's empty tags of credentials, as sing-box does."""
    if not isinstance(user, dict):
        return user
    return {key: value for key, value in user.items() if value != "" or key not in _TAGS_OF_USER}


def _without_unset(members: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what sing-box treats as not given: ``null`` and the empty string."""
    return {key: value for key, value in members.items() if value is not None and value != ""}
