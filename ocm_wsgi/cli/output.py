"""Output of commands: tables that fit the terminal, JSON, times and amounts. Identical on a terminal and in a file."""

from __future__ import annotations

import json
import shutil
import textwrap
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import click

from ocm_wsgi.quota.limits import MICRO_PER_USD

_GAP = "  "

# Wrapped columns keep at least this width; if they cannot, the table is shown row by row.
_MIN_COLUMN_WIDTH = 10


def terminal_width() -> int:
    """Return the terminal's width in columns, or 80 without a terminal. ``COLUMNS`` overrides both."""
    return shutil.get_terminal_size((80, 24)).columns


def echo_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def echo_paragraph(text: str) -> None:
    """Print text after an empty line, wrapped to the terminal."""
    click.echo("\n" + textwrap.fill(text, terminal_width(), break_on_hyphens=False))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, right: Sequence[str] = ()) -> str:
    """Lay out rows in columns. Wide cells are wrapped; if the table still does not fit, each row becomes a list.

    :param right: headers of the columns that are right-aligned and never wrapped.
    """
    lines = [headers, *rows]
    natural = [max(_width(line[index]) for line in lines) for index in range(len(headers))]
    smallest = [
        size if header in right else min(size, max(_MIN_COLUMN_WIDTH, _width(header)))
        for header, size in zip(headers, natural, strict=True)
    ]
    room = width - len(_GAP) * (len(headers) - 1)
    if sum(smallest) > room:
        return "\n\n".join(_record(headers, row, width) for row in rows)
    sizes = _shrunk(natural, smallest, room)
    return "\n".join(_line(line, sizes, [header in right for header in headers]) for line in lines)


def facts(pairs: Sequence[tuple[str, str]], width: int) -> str:
    """Lay out names and values, one pair per line; values are wrapped beside their names if there is room."""
    return _record([name for name, _ in pairs], [value for _, value in pairs], width)


def utc(time: float | None, otherwise: str = "never") -> str:
    """Format a time for people, in UTC like all days and windows."""
    return otherwise if time is None else f"{datetime.fromtimestamp(time, timezone.utc):%Y-%m-%d %H:%M} UTC"


def usd(micro_usd: int) -> str:
    """Format an amount for people: two decimals, more for amounts below a cent."""
    amount = Decimal(micro_usd) / MICRO_PER_USD
    return f"{amount:,.2f}" if amount >= Decimal("0.01") or not amount else f"{amount:.6f}"


def percent(value: float | Decimal) -> str:
    """Format a percentage for people."""
    return f"{float(value):.1f}%"


def _shrunk(natural: Sequence[int], smallest: Sequence[int], room: int) -> list[int]:
    """Narrow the widest column repeatedly until all fit."""
    sizes = list(natural)
    while sum(sizes) > room:
        widest = max((index for index in range(len(sizes)) if sizes[index] > smallest[index]), key=sizes.__getitem__)
        sizes[widest] -= 1
    return sizes


def _line(cells: Sequence[str], sizes: Sequence[int], right: Sequence[bool]) -> str:
    wrapped = [_wrapped(cell, size) for cell, size in zip(cells, sizes, strict=True)]
    height = max(len(lines) for lines in wrapped)
    text = []
    for row in range(height):
        parts = []
        for lines, size, is_right in zip(wrapped, sizes, right, strict=True):
            part = lines[row] if row < len(lines) else ""
            blank = " " * (size - _width(part))
            parts.append(blank + part if is_right else part + blank)
        text.append(_GAP.join(parts).rstrip())
    return "\n".join(text)


def _record(headers: Sequence[str], row: Sequence[str], width: int) -> str:
    indent = max(_width(header) for header in headers) + len(_GAP)
    beside = width - indent >= 2 * _MIN_COLUMN_WIDTH
    lines = []
    for header, cell in zip(headers, row, strict=True):
        parts = _wrapped(cell, max(width - (indent if beside else len(_GAP)), _MIN_COLUMN_WIDTH))
        if beside:
            lines.append((header + " " * (indent - _width(header)) + parts[0]).rstrip())
            lines += [" " * indent + part for part in parts[1:]]
        else:
            lines += [header, *(_GAP + part for part in parts)]
    return "\n".join(lines)


def _wrapped(text: str, size: int) -> list[str]:
    lines = []
    for line in text.split("\n"):
        lines += textwrap.wrap(line, size, break_on_hyphens=False) or [""]
    return lines


def _width(text: str) -> int:
    """Return the number of terminal columns that a text occupies. Source: Unicode Standard Annex #11."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
