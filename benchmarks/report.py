"""Formats measurements as tables and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from benchmarks import nginx, service
from benchmarks.figures import Figures, Measurement, Spread, ratio
from benchmarks.kinds import Kind
from benchmarks.servers import DIRECT

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

    :ivar is_tls: whether upstream used TLS.
    :ivar rounds: the number of repetitions.
    :ivar measurements: ordered by size.
    :ivar missing: the servers that were not measured, with the reasons.
    """

    kind: Kind
    is_tls: bool
    rounds: int
    measurements: Sequence[Measurement]
    missing: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The name in JSON, which no other section has."""
        return f"{self.kind.name}_tls" if self.is_tls else self.kind.name

    @property
    def title(self) -> str:
        """The title, with the number of rounds if there are several."""
        return f"{self.kind.title}; medians of {self.rounds} rounds" if self.rounds > 1 else self.kind.title

    def sizes(self) -> Iterator[tuple[int, list[Measurement]]]:
        """Yield the measurements of each size."""
        for size, measurements in groupby(self.measurements, key=lambda measurement: measurement.size):
            yield size, list(measurements)


def ratios(section: Section) -> dict[int, dict[str, Spread | None]]:
    """Return the figures of the service as multiples of nginx's, for each size."""
    return {size: _ratios(measurements, service.NAME) for size, measurements in section.sizes()}


def _ratios(measurements: Iterable[Measurement], server: str) -> dict[str, Spread | None]:
    by_server = {measurement.server: measurement for measurement in measurements}
    subject, reference = by_server[server], by_server[nginx.NAME]
    return {name: ratio(subject, reference, name) for name in subject.figures}


def summary(sections: Sequence[Section], expected: Mapping[str, float]) -> str:
    """Return the CPU time of the service, and of other programs, as multiples of nginx's.

    :param expected: the expected ratios of the service, by the label of the load.
    """
    servers = list(dict.fromkeys(m.server for section in sections for m in section.measurements))
    compared = [service.NAME, *(name for name in servers if name not in (DIRECT, nginx.NAME, service.NAME))]
    rounds = max(section.rounds for section in sections)
    spread = f"; medians of {rounds} rounds, lowest to highest" if rounds > 1 else ""
    lines = [f"CPU of all threads as a multiple of nginx's{spread}", ""]
    for section in sections:
        for size, measurements in section.sizes():
            label = section.kind.label(size)
            lines.append(label)
            measured = {measurement.server for measurement in measurements}
            for name in (name for name in compared if name in measured):
                lines.append(_summary_line(name, _ratios(measurements, name)[section.kind.column]))
                if name == service.NAME and label in expected:
                    lines[-1] += f"   expected {expected[label]:.2f}×"
            if section.kind.name == "arrivals":
                lines.append(f"  p99 of an event's latency: {_latencies(measurements)}")
    return "\n".join(lines)


def _latencies(measurements: Iterable[Measurement]) -> str:
    return ", ".join(f"{m.server} {_cell(m.figures['latency_p99_ms'], 1)} ms" for m in measurements)


def _summary_line(server: str, found: Spread | None) -> str:
    if found is None:
        return f"  {server:<{_SERVER_WIDTH}}{'-':>9}"
    spread = f"   {found.lowest:.2f} to {found.highest:.2f}" if found.lowest < found.highest else ""
    return f"  {server:<{_SERVER_WIDTH}}{_cell(found.median, 2, '×'):>9}{spread}"


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
        medians = {name: found.median if found else None for name, found in compared[size].items()}
        lines.append(_line("", _RATIO, [_cell(medians[column.name], 2, "×") for column in section.kind.columns]))
    return "\n".join(lines)


def _heading(section: Section) -> list[str]:
    above, below = zip(*(column.heading for column in section.kind.columns), strict=True)
    return [_line("", "", above, "", ""), _line(section.kind.counted, "", below, "whole", "failed")]


def _cells(section: Section, figures: Figures) -> list[str]:
    return [_cell(figures[column.name], column.digits) for column in section.kind.columns]


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
            where = f"{measurement.server}, {measurement.size:,} {section.kind.counted}"
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
            "label": section.kind.label(size),
            "ratio": {name: found and asdict(found) for name, found in compared[size].items()},
        }
        for size, measurements in section.sizes()
    ]


def _members(measurement: Measurement) -> dict[str, Any]:
    found = {**measurement.figures, "whole": measurement.whole, "failures": measurement.failures}
    return {**found, "rounds": measurement.rounds} if len(measurement.rounds) > 1 else found
