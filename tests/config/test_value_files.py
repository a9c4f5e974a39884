"""Keys from files of their own: ``OCM_<KEY>_FILE``, and systemd's credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocm_wsgi.config import Config, load, scalar_keys
from ocm_wsgi.config.environment import keys_from_files
from ocm_wsgi.errors import ConfigurationError

SECRET = "secret-of-0123456789abcdef"


def load_from(folder: Path, *, environ: dict[str, str], **files: str) -> Config:
    """Write the files, and load the configuration with ``{folder}`` in the environment replaced."""
    for name, content in files.items():
        (folder / name).write_text(content)
    values = {name: value.format(folder=folder) for name, value in environ.items()}
    return load({"HOME": str(folder), **values}, folder)


def problems_of(folder: Path, *, environ: dict[str, str], **files: str) -> list[str]:
    """Return the problems of a configuration that cannot be loaded; none contains the secret."""
    with pytest.raises(ConfigurationError) as raised:
        load_from(folder, environ=environ, **files)
    assert SECRET not in str(raised.value)
    return [str(problem) for problem in raised.value.problems]


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n"])
@pytest.mark.parametrize("path", ["token", "{folder}/token", "~/token"])
def test_single_value(tmp_path: Path, content: str, path: str) -> None:
    """The file's content is the value, without its last line end; paths are as in other keys."""
    config = load_from(tmp_path, environ={"OCM_METRICS_TOKEN_FILE": path}, token=content)
    assert config.metrics_token is not None
    assert config.metrics_token.get_secret_value() == SECRET


def test_numbers_are_converted(tmp_path: Path) -> None:
    """Any key with a single value can be in a file, also one that is no text."""
    config = load_from(
        tmp_path,
        environ={"OCM_RESERVE_5H_FILE": "reserve", "OCM_DETOUR_FILE": "proxy"},
        reserve="10\n",
        proxy="http://p:1",
    )
    assert config.reserve_5h == 10
    assert config.proxy_url is not None
    assert config.proxy_url.get_secret_value() == "http://p:1"


def test_structured_values(tmp_path: Path) -> None:
    """Users and header fields, which contain secrets, can be in files of their own: in place of those in the file."""
    config = load_from(
        tmp_path,
        environ={"OCM_USERS_FILE": "users", "OCM_HEADERS_FILE": "fields", "OCM_CONFIG": "{folder}/config"},
        config='{"reserve_5h": 5, "users": [{"name": "bob", "token": "another-token-of-bob"}]}',
        users=f'[{{"name": "alice", "token": "{SECRET}"}}] // comments are allowed, as in the file',
        fields=f'{{"X-Key": "{SECRET}"}}',
    )
    assert [(user.name, user.token.get_secret_value()) for user in config.users] == [("alice", SECRET)]
    assert dict(config.headers) == {"X-Key": (SECRET,)}
    assert config.reserve_5h == 5


def test_systemd_credentials(tmp_path: Path) -> None:
    """systemd's credentials whose names begin with `ocm.` set keys; others are not ours."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "ocm.metrics_token").write_text(SECRET)
    (folder / "ocm.users").write_text('[{"name": "alice", "token": "token-of-alice-0123"}]')
    (folder / "other").write_text("x")
    config = load_from(tmp_path, environ={"CREDENTIALS_DIRECTORY": str(folder)})
    assert config.metrics_token is not None
    assert config.metrics_token.get_secret_value() == SECRET
    assert [user.name for user in config.users] == ["alice"]


def test_files_take_precedence_over_the_configuration(tmp_path: Path) -> None:
    """Like a variable, a file of its own overrides the configuration file."""
    config = load_from(
        tmp_path,
        environ={"OCM_CONFIG": "{folder}/config", "OCM_LOG_FORMAT_FILE": "format"},
        config='{"log_format": "text"}',
        format="json",
    )
    assert config.log_format == "json"


@pytest.mark.parametrize(
    ("environ", "files", "problem"),
    [
        pytest.param(
            {"OCM_METRICS_TOKEN_FILE": "nowhere"},
            {},
            "OCM_METRICS_TOKEN_FILE: found {folder}/nowhere: No such file",
            id="missing",
        ),
        pytest.param({"OCM_METRICS_TOKEN_FILE": "f"}, {"f": ""}, "{folder}/f: empty; expected a file with", id="empty"),
        pytest.param(
            {"OCM_METRICS_TOKEN_FILE": "f"}, {"f": "\n"}, "{folder}/f: empty; expected a file with", id="line"
        ),
        pytest.param(
            {"OCM_METRICS_TOKEN_FILE": "f", "OCM_METRICS_TOKEN": SECRET},
            {"f": SECRET},
            "OCM_METRICS_TOKEN_FILE: found the same key as in OCM_METRICS_TOKEN; expected each key once",
            id="twice",
        ),
        pytest.param(
            {"OCM_METRICS_TOKEN_FILE": "f"}, {"f": f"{SECRET} two"}, "OCM_METRICS_TOKEN_FILE: found", id="invalid-value"
        ),
        pytest.param(
            {"OCM_LISTEN_PORT_FILE": "f"},
            {"f": "80800"},
            "OCM_LISTEN_PORT_FILE: found 80800; expected a port",
            id="invalid-number",
        ),
        pytest.param(
            {"OCM_USERS_FILE": "f"},
            {"f": '[{"name": "a"}]'},
            "OCM_USERS_FILE[0].token: found nothing",
            id="invalid-user",
        ),
        pytest.param(
            {"OCM_USERS_FILE": "f"},
            {"f": f'[{{"name": "a", "token": "{SECRET}"}}, {{"name": "b", "token": "{SECRET}"}}]'},
            "OCM_USERS_FILE[1].token: found the same token as OCM_USERS_FILE[0].token",
            id="token-twice",
        ),
        pytest.param({"OCM_USERS_FILE": "f"}, {"f": SECRET}, "OCM_USERS_FILE: found", id="no-json"),
        pytest.param({"OCM_METRICS_TOKN_FILE": "f"}, {}, "(did you mean OCM_METRICS_TOKEN_FILE?)", id="unknown"),
        pytest.param({"OCM_USERS": "f"}, {}, "or in the one that OCM_USERS_FILE names", id="users-as-a-variable"),
    ],
)
def test_problems(tmp_path: Path, environ: dict[str, str], files: dict[str, str], problem: str) -> None:
    """Each problem is reported with the variable that names the file, without its content."""
    found = problems_of(tmp_path, environ=environ, **files)
    assert len(found) == 1
    assert problem.format(folder=tmp_path) in found[0]


def test_problems_with_systemd_credentials(tmp_path: Path) -> None:
    """An unknown name is reported with the closest key, and a key that is set twice."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "ocm.metric_token").write_text(SECRET)
    (folder / "ocm.database_url").write_text("sqlite:///x")
    environ = {"CREDENTIALS_DIRECTORY": str(folder), "OCM_DATABASE_URL_FILE": str(folder / "ocm.database_url")}
    assert problems_of(tmp_path, environ=environ) == [
        "the credential ocm.database_url: found the same key as in OCM_DATABASE_URL_FILE; expected each key once",
        "the credential ocm.metric_token: found an unknown key; expected ocm. followed by the name of a key "
        "(did you mean metrics_token?)",
    ]


def test_every_secret_can_be_in_a_file() -> None:
    """All keys with single values can, and those with more than one that contain secrets."""
    assert set(keys_from_files()) == {*scalar_keys(), "users", "headers"}
