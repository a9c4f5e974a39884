"""CSV files."""

from __future__ import annotations

import csv

import pytest

from ocm_wsgi.reporting.spreadsheet import csv_text


def read(text: str) -> list[list[str]]:
    """Return the cells of a CSV file."""
    return list(csv.reader(text.splitlines(keepends=True)))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_formula_becomes_text(start: str) -> None:
    """Whatever a spreadsheet could take for a formula begins with an apostrophe."""
    (text,) = csv_text(["model"], [[f"{start}1+1"]])
    assert text.startswith(("model\r\n'", "model\r\n\"'"))


def test_other_values_are_unchanged() -> None:
    """Other text, numbers and gaps are unchanged, also with such a character within."""
    row = ["gpt-5.5", "", "a=b,c", "2027-01-15", -1, 0.5, None]
    (text,) = csv_text(["a"], [row], line_end="\n")
    assert read(text) == [["a"], ["gpt-5.5", "", "a=b,c", "2027-01-15", "-1", "0.5", ""]]


def test_a_long_file_comes_in_pieces() -> None:
    """A long file is not held in memory whole."""
    rows = [[number, "x" * 1000] for number in range(1000)]
    pieces = list(csv_text(["number", "text"], rows))
    assert max(map(len, pieces)) < 100_000
    assert read("".join(pieces))[1:] == [[str(number), text] for number, text in rows]
