"""The table of endpoints in ``docs/users.md`` is that of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM, EndpointTable

SECTION = (
    (Path(__file__).parents[2] / "docs/users.md")
    .read_text(encoding="utf-8")
    .partition("\n## Endpoints\n")[2]
    .partition("\n## ")[0]
)
ROWS = [row.strip("|").split("|") for row in SECTION.splitlines() if row.startswith("| ") and "---" not in row][1:]


def documented(column: int) -> set[str]:
    """Return the paths that a column says exist: those named in it, and those of its row if it is not empty."""
    cells = [(row[0] if row[column].strip() else "") + row[column] for row in ROWS]
    return {path for cell in cells for path in re.findall(r"`([a-z_/]+)(?:/\{\w+\})?`", cell)}


@pytest.mark.parametrize(("table", "column"), [(CHATGPT, 1), (PLATFORM, 2)], ids=["chatgpt", "api-key"])
def test_the_documented_endpoints_exist_and_no_other(table: EndpointTable, column: int) -> None:
    """Each path without IDs is in the column of its credential, by its name or by that of the whole family."""
    paths = {endpoint.path.partition("/{")[0] for endpoint in table.endpoints}
    named = documented(column)
    assert {path for path in paths if path not in named and path.partition("/")[0] not in named} == set()
    assert {path for path in named if path not in paths} == set()
