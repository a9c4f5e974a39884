"""Help and documentation: every command has both, and they agree with the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from click.testing import Result

from ocm_wsgi import __version__
from ocm_wsgi.cli import ocm as flask_ocm
from ocm_wsgi.program import ocm

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
#: Commands documented on other pages.
ELSEWHERE = {"demo"}
NAMES = [name for name in ocm.list_commands(click.Context(ocm)) if name not in ELSEWHERE]


def command_of(name: str) -> click.Command:
    command = ocm.get_command(click.Context(ocm), name)
    assert command is not None
    return command


def section_of(name: str) -> str:
    (section,) = re.findall(rf"^## `{name}[ `].*?(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(section)


@pytest.mark.parametrize("name", NAMES)
def test_help(run: Callable[..., Result], name: str) -> None:
    """Help has an example, fits 80 columns, and describes every option."""
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"ocm {name}" in result.stdout
    assert re.search(r"^  Examples?:$", result.stdout, re.MULTILINE)
    assert max(map(len, result.stdout.splitlines())) <= 80
    options = [parameter for parameter in command_of(name).params if isinstance(parameter, click.Option)]
    assert all(option.help for option in options)


@pytest.mark.parametrize("name", NAMES)
def test_documented(name: str) -> None:
    """The document names exactly the options that the command has."""
    options = [parameter for parameter in command_of(name).params if isinstance(parameter, click.Option)]
    existing = {text for option in options for text in (*option.opts, *option.secondary_opts)}
    documented = set(re.findall(r"^\| `(--[a-z-]+)", section_of(name), re.MULTILINE))
    documented |= set(re.findall(r"^\| `--[a-z-]+`, `(--[a-z-]+)`", section_of(name), re.MULTILINE))
    assert documented == existing


def test_all_documented() -> None:
    """The document has a section for each command, in the order of the help."""
    assert re.findall(r"^## `([a-z-]+)", DOCUMENT, re.MULTILINE) == NAMES


def test_group(run: Callable[..., Result]) -> None:
    """The group lists its commands; without one it shows its help."""
    result = run("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.stdout for name in NAMES)
    assert "..." not in result.stdout.partition("Commands:")[2]
    assert "OCM_CONFIG" in result.stdout


def test_version(run: Callable[..., Result]) -> None:
    """The version is that of the package."""
    assert run("--version").stdout == f"ocm-wsgi {__version__}\n"


def test_entry_point() -> None:
    """Flask finds the group."""
    (entry_point,) = entry_points(group="flask.commands", name="ocm")
    assert entry_point.load() is flask_ocm


def test_only_serve_is_not_a_command_of_flask() -> None:
    """`ocm` has the commands of `flask ocm`, and `serve`."""
    assert ocm.list_commands(click.Context(ocm)) == ["serve", *flask_ocm.list_commands(click.Context(flask_ocm))]
