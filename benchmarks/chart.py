"""Plots measurements as SVG: grouped bars, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks import chatmock, litellm, nginx, service, sing_box
from benchmarks.figures import Measurement
from benchmarks.report import Section

# The figures shown of each section, with their titles.
_PANELS = {
    "streams": (
        ("cpu_us_per_event", "CPU per event, µs"),
        ("latency_p99_ms", "event latency, p99, ms"),
        ("first_byte_p99_ms", "first byte, p99, ms"),
        ("memory_kib_per_stream", "memory per stream, KiB"),
    ),
    "sockets": (
        ("cpu_us_per_event", "CPU per WebSocket message, µs"),
        ("latency_p99_ms", "message latency, p99, ms"),
    ),
    "turns": (
        ("cpu_us_per_turn", "CPU per short turn, µs"),
        ("first_byte_p99_ms", "first byte of short turns, p99, ms"),
    ),
    "arrivals": (
        ("latency_p99_ms", "event latency beside new turns, p99, ms"),
        ("turn_first_byte_p99_ms", "first byte of new turns, p99, ms"),
    ),
}
_COLOURS = {
    "direct": "#8a8a8a",
    nginx.NAME: "#2a9d8f",
    service.NAME: "#e76f51",
    chatmock.KIND.name: "#7b6fd0",
    litellm.KIND.name: "#c9a227",
    sing_box.KIND.name: "#4a90d9",
}
_STYLE = "text{font:12px system-ui,sans-serif;fill:#808080}.title{font-size:15px}.value{font-size:10px}"
# In pixels.
_PANEL_WIDTH, _PANEL_HEIGHT, _MARGIN, _HEAD = 400, 180, 40, 60
_PANELS_PER_ROW = 2


@dataclass(frozen=True)
class _Panel:
    """The bars of one figure for all servers and sizes, with the top left corner at ``left`` and ``top``."""

    section: Section
    left: int
    top: int
    name: str
    title: str

    def draw(self) -> Iterator[str]:
        bottom = self.top + _PANEL_HEIGHT
        sizes = list(self.section.sizes())
        values = [measurement.figures[self.name] or 0 for measurement in self.section.measurements]
        scale = _PANEL_HEIGHT / (max(values) or 1)
        yield _text(self.left, self.top - 18, self.title)
        yield f'<path d="M{self.left} {bottom}h{_PANEL_WIDTH}" stroke="#808080"/>'
        group_width = _PANEL_WIDTH / len(sizes)
        for index, (size, measurements) in enumerate(sizes):
            left = self.left + index * group_width
            yield _text(left + group_width / 2, bottom + 16, f"{size:,}", anchor="middle")
            yield from self._bars(measurements, left + group_width * 0.1, group_width * 0.8, bottom, scale)

    def _bars(
        self, measurements: Sequence[Measurement], left: float, width: float, bottom: float, scale: float
    ) -> Iterator[str]:
        bar_width = width / len(measurements)
        for index, measurement in enumerate(measurements):
            value = measurement.figures[self.name]
            if value is None:
                continue
            x, height = left + index * bar_width, max(0.0, value * scale)
            yield (
                f'<rect x="{x:.1f}" y="{bottom - height:.1f}" width="{bar_width * 0.9:.1f}" height="{height:.1f}" '
                f'fill="{_COLOURS[measurement.server]}"/>'
            )
            yield _text(x + bar_width * 0.45, bottom - height - 3, f"{value:,.3g}", anchor="middle", kind="value")


def chart(sections: Sequence[Section]) -> str:
    """Return a plot of all sections that are shown."""
    panels = [(section, *panel) for section in sections for panel in _PANELS.get(section.kind.name, ())]
    rows = -(-len(panels) // _PANELS_PER_ROW)
    title = "; ".join(section.title for section in sections)
    width = _MARGIN + _PANELS_PER_ROW * (_PANEL_WIDTH + _MARGIN)
    height = _HEAD + rows * (_PANEL_HEIGHT + 2 * _MARGIN)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        _text(_MARGIN, 24, title, kind="title"),
        *_legend(sections[0]),
    ]
    for index, (section, name, title) in enumerate(panels):
        row, column = divmod(index, _PANELS_PER_ROW)
        left = _MARGIN + column * (_PANEL_WIDTH + _MARGIN)
        top = _HEAD + _MARGIN + row * (_PANEL_HEIGHT + 2 * _MARGIN)
        transport = "TLS" if section.is_tls else "plain"
        lines += _Panel(section, left, top, name, f"{title} ({transport})").draw()
    return "\n".join([*lines, "</svg>", ""])


def _legend(section: Section) -> Iterator[str]:
    _, measurements = next(section.sizes())
    left = _MARGIN
    for measurement in measurements:
        yield f'<rect x="{left}" y="39" width="11" height="11" fill="{_COLOURS[measurement.server]}"/>'
        yield _text(left + 16, 49, measurement.server)
        left += 110
    yield _text(left, 49, "by number of concurrent clients")


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
