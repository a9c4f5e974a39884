"""docs/development.md shows the packages as they are."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ocm_wsgi"
PAGE = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")


def layers() -> list[list[str]]:
    """Return the layers of the import contract, from the top down."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["importlinter:contract:layers"]["layers"].strip().splitlines()
    return [[name.strip() for name in line.split("|")] for line in lines]


def purpose(name: str) -> str:
    """Return the first line of a package's or module's docstring, as the page has it."""
    path = PACKAGE / name / "__init__.py"
    if not path.exists():
        path = PACKAGE / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    return docstring.splitlines()[0].replace("``", "`")


def test_every_package_is_in_the_contract() -> None:
    """The layers name every package and every module at the root."""
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {
        path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"
    }
    assert found == {name for layer in layers() for name in layer}


def test_the_table_is_the_contract() -> None:
    """The table has a row for each package, in the order of the layers, with its own words."""
    rows = re.findall(r"^\| (\d+) \| `([\w.]+)` \| (.+) \|$", PAGE, re.MULTILINE)
    ordered = layers()
    assert rows == [
        (str(len(ordered) - above), name if (PACKAGE / name).is_dir() else f"{name}.py", purpose(name))
        for above, layer in enumerate(ordered)
        for name in layer
    ]


def test_the_modules_named_exist() -> None:
    """What the page and its picture name as ``package/module`` is there."""
    picture = (ROOT / "docs" / "turn.svg").read_text(encoding="utf-8")
    packages = "|".join(sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
    named = {
        *re.findall(rf"`(?:ocm_wsgi/)?((?:{packages})/[\w/]+?)(?:\.py|/)?`", PAGE),
        *re.findall(rf"\b((?:{packages})/[a-z_/]+)", picture),
    }
    assert len(named) > 25
    assert [name for name in sorted(named) if not is_there(PACKAGE / name)] == []


def is_there(path: Path) -> bool:
    """Return whether a module or a package of this path exists."""
    return path.is_dir() or path.with_suffix(".py").is_file()
