"""The expected ratios of the service to nginx, and what a run has found beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Spread
from benchmarks.report import Section, ratios

PATH = Path(__file__).with_name("expected.json")
#: A ratio that exceeds the expected one by more than this fraction is a regression.
TOLERANCE = 0.1
# What a ratio depends on; a busy machine costs the service more than nginx, which needs less of the processor's caches.
_MACHINE = ("CPUs", "Python", "nginx", "OpenSSL", "Linux", "load average")
# On machines that agree in these, ratios can be compared.
_SAME = ("CPUs", "Python", "nginx")


@dataclass(frozen=True)
class Expected:
    """The content of ``expected.json``.

    :ivar machine: on which the ratios were taken.
    :ivar ratios: of CPU time, by the label of the load.
    """

    machine: Mapping[str, str] = field(default_factory=dict)
    ratios: Mapping[str, Spread] = field(default_factory=dict)

    def is_of(self, machine: Mapping[str, str]) -> bool:
        """Return whether the ratios were taken on such a machine."""
        return all(self.machine.get(name) == machine.get(name) for name in _SAME)

    def medians(self) -> dict[str, float]:
        """Return the expected ratio of each load."""
        return {label: ratio.median for label, ratio in self.ratios.items()}


def read(path: Path = PATH) -> Expected:
    """Return the expected ratios; none if there is no such file."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return Expected()
    return Expected(content["machine"], {label: Spread(**members) for label, members in content["ratios"].items()})


def write(machine: Mapping[str, str], sections: Sequence[Section], path: Path = PATH) -> None:
    """Replace the expected ratios of the measured loads; of all loads if they were taken on another machine."""
    before = read(path)
    kept = before.ratios if before.is_of(machine) else {}
    content = {
        "machine": {name: machine[name] for name in _MACHINE if name in machine},
        "ratios": {label: _rounded(ratio) for label, ratio in {**kept, **found(sections)}.items()},
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _rounded(ratio: Spread) -> dict[str, Any]:
    return {name: round(value, 3) for name, value in asdict(ratio).items()}


def found(sections: Sequence[Section]) -> dict[str, Spread]:
    """Return the ratios of the measured loads by their labels."""
    return {
        section.kind.label(size): ratio
        for section in sections
        for size, by_name in ratios(section).items()
        if (ratio := by_name[section.kind.column]) is not None
    }


def regressions(expected: Expected, sections: Sequence[Section]) -> list[str]:
    """Return a sentence for each load that costs more than :data:`TOLERANCE` above what is expected."""
    sentences = []
    for label, ratio in found(sections).items():
        before = expected.ratios.get(label)
        if before is not None and ratio.median > before.median * (1 + TOLERANCE):
            more = ratio.median / before.median - 1
            sentences.append(
                f"regression: {label}: {ratio.median:.2f} × nginx, {more:.0%} above the expected {before.median:.2f}"
            )
    return sentences
