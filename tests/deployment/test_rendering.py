"""The files of ``deploy/`` with names filled in."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from ocm_wsgi.deployment import KINDS, Installation, UnusableInstallation, is_host_name, render

DEPLOY = Path(__file__).parents[2] / "deploy"
DEFAULT = Installation(None, "127.0.0.1:8080", PurePosixPath("/opt/ocm/.venv/bin/ocm"))
OTHER = Installation("codex.example.com", "[::1]:9000", PurePosixPath("/srv/ocm/bin/ocm"))


def test_every_file_has_a_kind() -> None:
    """Each file in deploy/ can be printed."""
    assert sorted(KINDS.values()) == sorted(path.name for path in DEPLOY.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_unchanged_without_names(kind: str) -> None:
    """With the names in the files, the files are printed as they are."""
    assert render(kind, DEFAULT) == (DEPLOY / KINDS[kind]).read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_all_names_filled_in(kind: str) -> None:
    """Nothing of the example is left where a name is given."""
    text = render(kind, OTHER)
    assert "ocm.example.org" not in text
    assert "127.0.0.1:8080" not in text
    assert "/opt/ocm/.venv/bin" not in text.replace("/opt/ocm/.venv/bin/ocm's", "")
    example = (DEPLOY / KINDS[kind]).read_text()
    for old, new in (
        ("ocm.example.org", "codex.example.com"),
        ("127.0.0.1:8080", "[::1]:9000"),
        ("/opt/ocm/.venv/bin/ocm", "/srv/ocm/bin/ocm"),
    ):
        assert text.count(new) == example.count(old)
    assert [line for line in text.splitlines() if "codex.example.com" in line and "EDIT" in line] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ocm.example.org", True),
        ("localhost", True),
        ("xn--bcher-kva.example", True),
        ("a.b.c.d.example", True),
        ("1.example", True),
        (f"{'a' * 63}.example", True),
        (f"{'a' * 64}.example", False),
        (".".join(["a" * 60] * 5), False),
        ("host", False),
        ("192.0.2.1", False),
        ("-a.example", False),
        ("a-.example", False),
        ("a..example", False),
        ("*.example.org", False),
        ("ocm.example.org\n", False),
        ("ocm.example.org; root /;", False),
        ("ocm.example.org { respond ok }", False),
        ("https://ocm.example.org", False),
        ("Ocm.example.org", False),
        ("", False),
    ],
)
def test_is_host_name(text: str, expected: bool) -> None:
    """Only host names pass: nothing that nginx or Caddy would take for a directive."""
    assert is_host_name(text) is expected


@pytest.mark.parametrize("kind", ["systemd", "command"])
@pytest.mark.parametrize(
    "program",
    ["/home/me/.local/bin/ocm", "/root/.cache/uv/x/bin/ocm", "/tmp/x/bin/ocm", "/opt/my ocm/ocm", "/opt/%i/ocm"],
)
def test_program_that_the_unit_could_not_start(kind: str, program: str) -> None:
    """A program in a folder that the unit hides, or with characters that systemd interprets, is refused."""
    with pytest.raises(UnusableInstallation):
        render(kind, Installation(None, "127.0.0.1:8080", PurePosixPath(program)))
    assert render("socket", Installation(None, "127.0.0.1:8080", PurePosixPath(program)))
