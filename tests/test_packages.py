"""Each package has a face: ``__all__`` names what other packages may use, and no other name is used from outside."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [*sorted((ROOT / "ocm_wsgi").rglob("*.py")), ROOT / "gunicorn.conf.py", ROOT / "wsgi.py"]
PACKAGES = sorted(
    ".".join(path.relative_to(ROOT).parent.parts) for path in (ROOT / "ocm_wsgi").glob("*/**/__init__.py")
)


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports() -> list[tuple[str, str, str]]:
    """Return every import from a module: the importing module, the imported one, and the name."""
    return [
        (module_name(path), node.module, alias.name)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    ]


def used_names(package: str) -> Iterator[tuple[str, str]]:
    """Yield each name that a module outside of a package imports from it, with that module."""
    for importer, module, name in imports():
        if f"{importer}.".startswith(f"{package}."):
            continue
        if module == package:
            yield name, importer
        elif module.startswith(f"{package}."):
            yield module.removeprefix(f"{package}.").partition(".")[0], importer


@pytest.mark.parametrize("package", PACKAGES)
def test_package_face(package: str) -> None:
    """What other packages use is named in ``__all__``, in order, and everything named there exists."""
    face = importlib.import_module(package)
    assert [use for use in used_names(package) if use[0] not in face.__all__] == []
    assert sorted(face.__all__) == sorted(set(face.__all__))
    folder = Path(str(face.__file__)).parent
    assert [
        name
        for name in face.__all__
        if not (hasattr(face, name) or (folder / name).is_dir() or (folder / f"{name}.py").exists())
    ] == []
