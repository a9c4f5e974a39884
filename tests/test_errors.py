"""The tree of errors."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ocm_wsgi import errors
from ocm_wsgi.errors import OcmError

_LINE = re.compile(r"^ {4}((?:│   |    )*)(?:├── |└── )(\w+)(?: +(\d{3}))?", re.MULTILINE)


def tree() -> dict[str, tuple[str, int | None]]:
    """Return the parent and the status of each error in the package's docstring."""
    found: dict[str, tuple[str, int | None]] = {}
    path = ["OcmError"]
    for indent, name, status in _LINE.findall(errors.__doc__ or ""):
        path = [*path[: 1 + len(indent) // 4], name]
        found[name] = (path[-2], int(status) if status else None)
    return found


def classes() -> list[type[OcmError]]:
    """Return all errors of the package but the base class."""
    found = [getattr(errors, name) for name in errors.__all__]
    return [each for each in found if isinstance(each, type) and issubclass(each, OcmError) and each is not OcmError]


def test_the_tree_is_complete() -> None:
    """The docstring draws each error below its base class, and no other."""
    assert {name: parent for name, (parent, _) in tree().items()} == {
        each.__name__: each.__bases__[0].__name__ for each in classes()
    }


@pytest.mark.parametrize("each", classes(), ids=lambda each: each.__name__)
def test_statuses(each: type[OcmError]) -> None:
    """A status in the tree is that of the class; it is left out where it is the parent's, or no client sees it."""
    _, drawn = tree()[each.__name__]
    assert drawn in (each.status, None)
    parent: Any = each.__bases__[0]
    if each.status not in (parent.status, OcmError.status):
        assert drawn == each.status
