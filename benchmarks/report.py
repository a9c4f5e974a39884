"""Formats measurements as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from benchmarks import nginx, service
from benchmarks.measures import Column, Figures, Measurement

# Above this, the load generator itself causes delays, which appear as the server's.
_BUSY_LIMIT = 0.8
_RATIO = "ratio"
_SHOWN_REASONS = 5
_SIZE_WIDTH = 11
_SERVER_WIDTH = 9
_CELL_WIDTH = 11


@dataclass(frozen=True)
class Section:
    """Measurements of one kind of load.

    :ivar size_heading: the unit of a load's size.
    :ivar measurements: ordered by size.
    :ivar missing: the servers that were not measured, with the reasons.
    """

    name: str
    title: str
    size_heading: str
    columns: Sequence[Column]
    measurements: Sequence[Measurement]
    missing: Sequence[str] = ()

    def sizes(self) -> Iterator[tuple[int, list[Measurement]]]:
        """Yield the measurements of each size."""
        for size, measurements in groupby(self.measurements, key=lambda measurement: measurement.size):
            yield size, list(measurements)


def ratios(section: Section) -> dict[int, dict[str, float | None]]:
    """Return the figures of the service as multiples of nginx's, for each size."""
    compared = {}
    for size, measurements in section.sizes():
        by_server = {measurement.server: measurement.figures for measurement in measurements}
        subject, reference = by_server[service.NAME], by_server[nginx.NAME]
        compared[size] = {name: _ratio(value, reference[name]) for name, value in subject.items()}
    return compared


def _ratio(value: float | None, reference: float | None) -> float | None:
    # Values near zero, or negative as memory can be within its noise, cannot be compared with.
    return value / reference if value is not None and reference is not None and reference > 0 else None


def table(section: Section) -> str:
    """Return a section as text, at most 120 columns wide."""
    compared = ratios(section)
    lines = [section.title, "", *_heading(section)]
    for size, measurements in section.sizes():
        label = f"{size:,}"
        for measurement in measurements:
            counts = f"{measurement.whole:,}", f"{sum(measurement.failures.values()):,}"
            lines.append(_line(label, measurement.server, _cells(section, measurement.figures), *counts))
            label = ""
        lines.append(_line("", _RATIO, [_cell(compared[size][column.name], 2, "×") for column in section.columns]))
    return "\n".join(lines)


def _heading(section: Section) -> list[str]:
    above, below = zip(*(column.heading for column in section.columns), strict=True)
    return [_line("", "", above, "", ""), _line(section.size_heading, "", below, "whole", "failed")]


def _cells(section: Section, figures: Figures) -> list[str]:
    return [_cell(figures[column.name], column.digits) for column in section.columns]


def _cell(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def _line(size: str, server: str, cells: Sequence[str], whole: str = "", failed: str = "") -> str:
    columns = "".join(f"{cell:>{_CELL_WIDTH}}" for cell in (*cells, whole, failed))
    return f"{size:>{_SIZE_WIDTH}}  {server:<{_SERVER_WIDTH}}{columns}".rstrip()


def remarks(sections: Sequence[Section]) -> list[str]:
    """Return remarks on the figures: failures, and effects that may not be the server's fault."""
    found = []
    for section in sections:
        found += [f"{section.name}: {reason}" for reason in section.missing]
        for measurement in section.measurements:
            where = f"{measurement.server}, {measurement.size:,} {section.size_heading}"
            found += [f"{where}: {count:,} failed: {reason}" for reason, count in _shown(measurement.failures)]
            if measurement.busy > _BUSY_LIMIT:
                share = f"{measurement.busy:.0%}"
                found.append(f"{where}: the generator or upstream took {share} of a CPU; latencies include their own")
    return found


def _shown(failures: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the most frequent reasons, as a server that includes request ids has a different one each time."""
    reasons = Counter(failures).most_common()
    rest = sum(count for _, count in reasons[_SHOWN_REASONS:])
    return reasons[:_SHOWN_REASONS] + ([("other reasons", rest)] if rest else [])


def document(machine: Mapping[str, str], sections: Sequence[Section]) -> dict[str, Any]:
    """Return everything as one JSON document."""
    return {
        "machine": machine,
        **{section.name: {"title": section.title, "sizes": _sizes(section)} for section in sections},
        "remarks": remarks(sections),
    }


def _sizes(section: Section) -> list[dict[str, Any]]:
    compared = ratios(section)
    return [
        {
            "size": size,
            "servers": {measurement.server: _members(measurement) for measurement in measurements},
            "ratio": compared[size],
        }
        for size, measurements in section.sizes()
    ]


def _members(measurement: Measurement) -> dict[str, Any]:
    return {**measurement.figures, "whole": measurement.whole, "failures": measurement.failures}
