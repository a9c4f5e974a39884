"""The pages are correct: the commands, examples and tests that they name exist."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import click
import pytest
from gunicorn.config import KNOWN_SETTINGS

from ocm_wsgi.accounting.sing_box_usages import parse, render
from ocm_wsgi.config import load
from ocm_wsgi.program import ocm
from ocm_wsgi.simulator.backend import UNSUPPORTED_PARAMETERS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: Our own program: installed, or in the virtual environment of a clone or a server.
OCM = re.compile(r"^(?:[\w./]*/bin/|[\w./]*flask )?ocm (?P<words>[a-z].*)")
#: Programs that this package and its dependencies install.
IN_VENV = re.compile(r"^(?:/opt/ocm/)?\.venv/bin/(?P<words>.+)")


def texts() -> Iterator[tuple[str, str]]:
    """Yield the name and text of each page, including the README."""
    for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        yield page.name, page.read_text(encoding="utf-8")


def commands(text: str) -> Iterator[str]:
    """Yield the commands in a page: lines of code blocks and inline code, without comments."""
    fenced = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)
    for command in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
        yield re.sub(r"\s+#.*", "", re.sub(r"^(?:\$ |[A-Z_]+=\S+ )+", "", command.strip()))


def found(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """Return the page and the words of every command that matches the pattern."""
    pairs = [(name, pattern.match(command)) for name, text in texts() for command in commands(text)]
    return sorted({(name, match["words"]) for name, match in pairs if match})


def test_make_targets_exist() -> None:
    """Every `make x` is a target in the Makefile."""
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [
        (name, word)
        for name, words in found(re.compile(r"^make (?P<words>.+)"))
        for word in shlex.split(words)
        if "=" not in word
    ]
    assert {"demo", "install", "docs"} <= {word for _, word in named}
    assert [pair for pair in named if pair[1] not in rules] == []


def test_benchmark_options_exist() -> None:
    """Every option in `make bench ARGS='...'` exists."""
    command = [sys.executable, "-m", "benchmarks", "--help"]
    help_text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    given = found(re.compile(r"^make bench ARGS='(?P<words>[^']+)'"))
    named = {(name, word) for name, words in given for word in words.split() if word.startswith("--")}
    assert named
    assert [pair for pair in sorted(named) if not re.search(rf"{pair[1]}\b", help_text)] == []


def test_ocm_commands_exist() -> None:
    """Every `flask ocm x --y` is a command that has this option."""
    used = found(OCM)
    assert {"login", "check", "add-user"} <= {words.split()[0] for _, words in used}
    assert [(name, words, problem) for name, words in used if (problem := problem_of(words))] == []


def problem_of(words: str) -> str | None:
    """Return what is wrong with a `flask ocm` command line, or `None`."""
    first, *rest = re.split(r"\s+", words)
    command = ocm if first == "--help" else ocm.get_command(click.Context(ocm), first)
    if command is None:
        return "no such command"
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    if first == "serve":
        options |= {option for setting in KNOWN_SETTINGS for option in setting.cli or ()}
    unknown = {word.partition("=")[0] for word in rest if word.startswith("--")} - options - {"--help"}
    return f"no such option: {', '.join(sorted(unknown))}" if unknown else None


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("add-user NAME --limit '5 USD per day'", None),
        ("remove-everything", "no such command"),
        ("add-user NAME --colour red", "no such option: --colour"),
        ("serve --workers 4", None),
        ("serve --colour red", "no such option: --colour"),
    ],
)
def test_problem_of(words: str, problem: str | None) -> None:
    """Unknown commands and options are detected."""
    assert problem_of(words) == problem


def test_programs_exist() -> None:
    """Every `.venv/bin/x` is installed, and every `python -m x` is an existing module."""
    programs = {(name, words.split()[0]) for name, words in found(IN_VENV)}
    assert {"gunicorn", "ocm", "pytest"} <= {program for _, program in programs}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    ours = set(re.findall(r"^(\w+) =", setup["options.entry_points"]["console_scripts"], re.MULTILINE))
    assert ours == {"ocm"}
    others = [(page, program) for page, program in sorted(programs) if program not in ours]
    assert [pair for pair in others if not Path(sys.executable).with_name(pair[1]).exists()] == []
    modules = {(name, words.split()[0]) for name, words in found(re.compile(r"^(?:\S*/)?python -m (?P<words>.+)"))}
    assert modules
    assert [pair for pair in sorted(modules) if not has_module(pair[1])] == []


def has_module(name: str) -> bool:
    """Return whether the repository has this module or package."""
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def test_files_exist() -> None:
    """Every file in deploy/, scripts/ or tests/ that a page names exists."""
    named = {
        (name, path) for name, text in texts() for path in re.findall(r"`((?:deploy|scripts|tests)/[\w./-]+)`", text)
    }
    assert named
    assert [pair for pair in sorted(named) if not (ROOT / pair[1]).exists()] == []


def test_named_tests_exist() -> None:
    """Every test that a page names exists: `file.py::test_x` in that file, `test_x` in any file."""
    tests = {path.relative_to(ROOT / "tests").as_posix(): path for path in (ROOT / "tests").rglob("test_*.py")}
    defined = {name: functions(path) for name, path in tests.items()}
    anywhere = set().union(*defined.values())
    named = [
        (page, file, function)
        for page, text in texts()
        for file, function in re.findall(r"`(?:(?:tests/)?([\w/]+\.py)::)?(test_\w+)(?:\[.*?\])?`", text)
    ]
    assert len(named) > 20
    assert [proof for proof in named if proof[2] not in (defined.get(proof[1], set()) if proof[1] else anywhere)] == []


def test_parameters_that_a_sign_in_lacks() -> None:
    """The page on clients names each parameter that the simulated ChatGPT backend refuses."""
    text = (
        (DOCS / "clients.md")
        .read_text(encoding="utf-8")
        .partition("**ChatGPT sign-in**")[2]
        .partition("**API key**")[0]
    )
    named = set(re.findall(r"`(\w+)`", text))
    assert named == {*UNSUPPORTED_PARAMETERS, "previous_response_id"}


def functions(path: Path) -> set[str]:
    """Return the names of the functions that a module defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def examples_of_sing_box() -> tuple[str, str]:
    """Return the configuration and the usage file from docs/sing-box.md."""
    text = (DOCS / "sing-box.md").read_text(encoding="utf-8")
    configuration, usages = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return configuration, usages


def test_sing_box_configuration_works_unchanged(tmp_path: Path) -> None:
    """The example in docs/sing-box.md loads, and everything that concerns this service takes effect."""
    file = tmp_path / "config.json"
    file.write_text(examples_of_sing_box()[0])
    config = load({"HOME": str(tmp_path), "OCM_CONFIG": str(file)}, tmp_path)
    assert [
        warning for warning in config.warnings if "could be guessed" not in warning
    ] == []  # it shows no real tokens
    assert (str(config.listen), config.listen_port) == ("127.0.0.1", 8080)
    assert str(config.credential_path) == "/home/owner/.codex/auth.json"
    assert str(config.usages_path) == "/var/lib/sing-box/codex-usages.json"
    assert [user.name for user in config.users] == ["alice", "bob"]
    assert config.proxy_url is not None
    assert config.proxy_url.get_secret_value() == "socks5h://127.0.0.1:40000"


def test_sing_box_usage_file_is_continued_in_its_own_format(tmp_path: Path) -> None:
    """The example in docs/sing-box.md is parsed, and written with the same sums and members."""
    usages = json.loads(examples_of_sing_box()[1])
    written = json.loads(render(parse(json.dumps(usages)), datetime(2026, 3, 4, tzinfo=timezone.utc)))
    assert written["combinations"] == usages["combinations"]
    assert written["costs"]["total_usd"] == usages["costs"]["total_usd"]
    assert written["costs"]["by_user"] == usages["costs"]["by_user"]
    assert written.keys() == usages.keys()
