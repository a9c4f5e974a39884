"""``ocm deploy``: what it prints, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result

Run = Callable[..., Result]


def test_prints_a_file(run: Run) -> None:
    """The file is printed and nothing else, with the name in lower case."""
    result = run("deploy", "nginx", "--name", "Codex.Example.com.", "--address", "127.0.0.1:9000")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("# TLS in front of")
    assert "server_name codex.example.com;" in result.stdout
    assert "server 127.0.0.1:9000;" in result.stdout


def test_prints_the_path_of_the_program(run: Run) -> None:
    """The unit starts the program that is named."""
    result = run("deploy", "systemd", "--program", "/srv/ocm/bin/ocm")
    assert "\nExecStart=/srv/ocm/bin/ocm serve\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nginx",), "nginx needs the service's public host name"),
        (("caddy",), "caddy needs the service's public host name"),
        (("systemd", "--name", "ocm.example.org"), "systemd contains no host name"),
        (("nginx", "--name", "a;b.org"), "'a;b.org' is not a host name"),
        (("socket", "--address", "8080"), "'8080' is not an address"),
        (("socket", "--address", "127.0.0.1:80800"), "is not an address"),
        (("apache",), "'apache' is not one of 'nginx'"),
        ((), "Missing argument 'KIND'"),
    ],
)
def test_usage_errors(run: Run, arguments: tuple[str, ...], message: str) -> None:
    """What cannot be filled in is a usage error of one sentence, and prints no file."""
    result = run("deploy", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr.splitlines()[-1] + result.stderr
