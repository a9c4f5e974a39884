"""docs/configuration.md agrees with the schema, in both directions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic_core import PydanticUndefined

from ocm_wsgi.config import (
    TLS,
    Balancer,
    Certificate,
    DefaultCredential,
    ExtraEndpoint,
    Limit,
    Price,
    UserConfig,
    load,
    scalar_keys,
    unsupported_keys,
)
from ocm_wsgi.config.environment import file_variable, keys_from_files
from ocm_wsgi.config.service import Service
from ocm_wsgi.config.types import StrictModel

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
CERTIFICATES = "/etc/letsencrypt/live/ocm.example.org"
COMPUTED = {"credential_path", "state_path", "database_url"}


def tables() -> list[list[list[str]]]:
    """Return the document's tables, as lists of rows of cells."""
    found = re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip().strip("|").split(" | ")] for row in t.splitlines()] for t in found]


def rows(*header: str, containing: str) -> list[list[str]]:
    """Return the rows of the table with this header that contains this key."""
    (table,) = [t for t in tables() if t[0] == list(header) and f"`{containing}`" in [row[0] for row in t]]
    return table[2:]


KEYS = {row[0].strip("`"): row for row in rows("key", "variable", "default", "example", "meaning", containing="listen")}


def test_every_key_is_documented_and_no_other() -> None:
    """The table lists the keys of the service, in their order."""
    assert list(KEYS) == list(Service.model_fields)


@pytest.mark.parametrize("key", Service.model_fields)
def test_key_is_documented_as_it_is(tmp_path: Path, key: str) -> None:
    """The documented variable and default are the real ones, and the example works."""
    _, variable, default, example, meaning = KEYS[key]
    assert variable == (f"`OCM_{key.upper()}`" if key in scalar_keys() else "in the file")
    assert meaning.endswith(".")
    real = load(environ={"HOME": str(tmp_path)}, cwd=tmp_path)
    if key not in COMPUTED:
        assert default == "none" or read(tmp_path, key, default) == getattr(real, key)
        assert (default == "none") == (getattr(real, key) is None)
    assert key == "tls" or read(tmp_path, key, example) != getattr(real, key)


def read(folder: Path, key: str, text: str) -> Any:
    """Return the value of a key that is set to a JSON text in backticks."""
    (folder / "ocm.json").write_text(json.dumps({key: json.loads(text.strip("`"))}))
    return getattr(load(environ={"HOME": str(folder)}, cwd=folder), key)


@pytest.mark.parametrize(
    ("table", "containing"),
    [
        (UserConfig, "max_concurrent"),
        (DefaultCredential, "limit_5h"),
        (Balancer, "strategy"),
        (Limit, "per"),
        (Price, "input"),
        (ExtraEndpoint, "counted"),
        (TLS, "alpn"),
        (Certificate, "store"),
    ],
)
def test_every_nested_key_is_documented_and_no_other(table: type[StrictModel], containing: str) -> None:
    """The tables of nested keys list the schema's keys and defaults, in its order."""
    documented = {row[0].strip("`"): row[1] for row in rows("key", "default", "meaning", containing=containing)}
    assert list(documented) == list(table.model_fields)
    for key, default in documented.items():
        assert default == shown(table.model_fields[key].default), key


def shown(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    return "none" if default is None else f"`{json.dumps(default)}`"


def test_every_unsupported_key_is_documented_and_no_other() -> None:
    """sing-box's unsupported keys are listed with the object that they belong to."""
    documented = [(row[0].strip("`"), row[1]) for row in rows("key", "where", "instead", containing="sniff")]
    unsupported = {
        "entry": unsupported_keys.SERVICE,
        "tls": unsupported_keys.TLS,
        "certificate": unsupported_keys.CERTIFICATE,
    }
    assert documented == [(key, where) for where, keys in unsupported.items() for key in keys]


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL))
def test_every_example_works(tmp_path: Path, example: str) -> None:
    """Each JSON example of the document is a configuration without problems."""
    certificate = trustme.CA().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "fullchain.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    (tmp_path / "ocm.json").write_text(example.replace(CERTIFICATES, str(tmp_path)).replace("…", ""))
    warnings = load(environ={"HOME": str(tmp_path)}, cwd=tmp_path).warnings
    assert [warning for warning in warnings if "could be guessed" not in warning] == []  # the page shows no real tokens


def test_every_variable_named_exists() -> None:
    """The document names no OCM_ variable that does not exist, except the one it gives as an unrelated variable."""
    named = set(re.findall(r"`(OCM_\w+)`", TEXT))
    files = {name for name in named if name.endswith("_FILE")}
    assert {file_variable("database_url"), file_variable("metrics_token")} <= files
    assert files <= {file_variable(key) for key in keys_from_files()}
    assert named - files - {"OCM_CONFIG", "OCM_SERVICE_HOST", "OCM_"} == {f"OCM_{key.upper()}" for key in scalar_keys()}
