"""CSV for spreadsheets, without formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

_PIECE_SIZE = 64 * 1024

# Spreadsheets take text that starts with one of these for a formula, or may do so after removing a tab or a line break.
# The last four are full-width forms. Source: OWASP, "CSV Injection". The apostrophe is there so that one in front of a
# text can be told from one that belongs to it.
_ESCAPED = re.compile(r"['=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]], *, line_end: str = "\r\n") -> Iterator[str]:
    """Yield a CSV file in pieces of about 64 KiB.

    Text that could be a formula gets an apostrophe in front, and so does one that starts with an apostrophe: names of
    models come from clients, and an admin who opens the file would otherwise run what a client wrote. Numbers are not
    text.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerow(header)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
        if text.tell() > _PIECE_SIZE:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _ESCAPED.match(value) else value


def plain_text(cell: str) -> str:
    """Return the text that was written to a cell by :func:`csv_text`."""
    return cell[1:] if cell.startswith("'") else cell
