"""What the benchmarks make of the figures: medians of rounds, ratios with their spread, and regressions."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import command, expected, figures, report
from benchmarks.expected import Expected
from benchmarks.figures import Measurement, Spread
from benchmarks.kinds import Kind, Loads
from benchmarks.processes import ProcessTree
from benchmarks.report import Section

LOADS = Loads(
    connections=(4,),
    turn_seconds=1.0,
    streams=(50,),
    sockets=(),
    events=300,
    rate=33.0,
    arrivals=(),
    arrival_streams=0,
    arrival_rate=1.0,
    arrival_seconds=1.0,
)
MACHINE = {"CPUs": "2 × A Processor", "Python": "3.13.5", "nginx": "1.26.3", "load average": "0.0 at the start"}


def kind(name: str = "streams") -> Kind:
    """Return a kind of load."""
    (found,) = LOADS.kinds([name], "plain", [])
    return found


def measurement(server: str, cpu: float | None, **failures: int) -> Measurement:
    """Return a measurement with one figure."""
    found = dict.fromkeys((column.name for column in figures.STREAM_COLUMNS), cpu)
    return Measurement(server, 50, found, 50 - sum(failures.values()), failures, 0.1)


def section(nginx: list[float], service: list[float], *others: Measurement) -> Section:
    """Return a section with the CPU time of both in each round."""
    relay = figures.median([measurement("nginx", cpu) for cpu in nginx])
    subject = figures.median([measurement("ocm-wsgi", cpu) for cpu in service])
    return Section(kind(), False, len(nginx), [relay, *others, subject])


def test_median_of_rounds() -> None:
    """Rounds are combined: medians (for memory the minimum), nothing for figures missing once, and all failures."""
    rounds = [measurement("nginx", 3.0, cut=1), measurement("nginx", 1.0, cut=2, late=1), measurement("nginx", 2.0)]
    found = figures.median(rounds)
    assert found.figures["memory_kib_per_stream"] == 1.0
    assert {value for name, value in found.figures.items() if not name.startswith("memory")} == {2.0}
    assert found.failures == {"cut": 3, "late": 1}
    assert set(figures.median([*rounds, measurement("nginx", None)]).figures.values()) == {None}


def test_ratio_of_rounds() -> None:
    """A ratio compares what was measured in the same round: what slows a whole round down does not change it."""
    found = section([1.0, 10.0, 2.0], [1.5, 14.0, 4.0])
    assert report.ratios(found)[50]["cpu_us_per_event"] == Spread(1.5, 1.4, 2.0)
    (line,) = [line for line in report.summary([found], {}).splitlines() if "ocm-wsgi" in line]
    assert line.split() == ["ocm-wsgi", "1.50×", "1.40", "to", "2.00"]
    assert "medians of 3 rounds, lowest to highest" in report.summary([found], {})


def test_summary_others() -> None:
    """The first table also shows other programs as multiples of nginx, and the expected ratio."""
    found = section([2.0], [3.0], measurement("sing-box", 5.0), measurement("direct", None))
    label = found.kind.label(50)
    lines = report.summary([found], {label: 1.4}).splitlines()
    assert lines[2] == label == "50 streams of 300 events of 158 B, 33 a second each, plain upstream"
    assert [line.split() for line in lines[3:]] == [["ocm-wsgi", "1.50×", "expected", "1.40×"], ["sing-box", "2.50×"]]


def test_table_ratio() -> None:
    """The last line of each size shows the service as a multiple of nginx, or a dash if that is not possible."""
    found = [measurement("direct", None), measurement("nginx", 2.0), measurement("ocm-wsgi", 3.0, cut=4)]
    one = Section(kind(), False, 1, found)
    *_, service, ratio = report.table(one).splitlines()
    assert service.split()[-2:] == ["46", "4"]
    assert ratio.split() == ["ratio"] + ["1.50×"] * len(figures.STREAM_COLUMNS)
    assert report.remarks([one]) == ["ocm-wsgi, 50 streams: 4 failed: cut"]
    failed = replace(one, measurements=[measurement("nginx", 1.0, cut=7, **{f"reason {n}": 1 for n in range(9)})])
    first, *_, last = report.remarks([failed])
    assert (first, last) == ("nginx, 50 streams: 7 failed: cut", "nginx, 50 streams: 5 failed: other reasons")
    nothing = replace(one, measurements=[*found[:1], measurement("nginx", 0.0), found[2]])
    assert set(report.table(nothing).splitlines()[-1].split()[1:]) == {"-"}


@pytest.mark.parametrize(("ratio", "says"), [(1.6, "1.60 × nginx, 14% above the expected 1.40"), (1.5, ""), (1.0, "")])
def test_regressions(ratio: float, says: str) -> None:
    """A ratio more than 10 % above the expected one is a regression, and one without an expected one is none."""
    found = section([1.0], [ratio])
    assert expected.regressions(Expected(MACHINE, {}), [found]) == []
    before = Expected(MACHINE, {found.kind.label(50): Spread(1.4, 1.3, 1.5)})
    sentences = expected.regressions(before, [found])
    assert [sentence.partition("upstream: ")[2] for sentence in sentences] == ([says] if says else [])


@pytest.mark.parametrize(("cpus", "passes"), [(MACHINE["CPUs"], False), ("4 × Another Processor", True)])
def test_check_regressions(cpus: str, passes: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A regression fails the run where the ratio was taken on such a machine; elsewhere it is only reported."""
    found = section([1.0], [2.0])
    before = Expected(MACHINE, {found.kind.label(50): Spread(1.4, 1.3, 1.5)})
    assert command.passes({**MACHINE, "CPUs": cpus}, [found], before) == passes
    said = capsys.readouterr().err
    assert "regression: 50 streams" in said
    assert ("taken on another machine: CPUs 2 × A Processor" in said) == passes


def test_write_expected(tmp_path: Path) -> None:
    """Ratios are written with the machine; those of other loads are retained, but not those of another machine."""
    path = tmp_path / "expected.json"
    assert expected.read(path) == Expected()
    other = {"other load": {"median": 2.0, "lowest": 1.0, "highest": 3.0}}
    path.write_text(json.dumps({"machine": MACHINE, "ratios": other}))
    found = section([1.0, 1.0, 1.0], [1.5, 1.4, 2.0])
    expected.write(MACHINE, [found], path)
    written = expected.read(path)
    assert written.machine == MACHINE
    assert written.ratios == {"other load": Spread(2.0, 1.0, 3.0), found.kind.label(50): Spread(1.5, 1.4, 2.0)}
    expected.write({**MACHINE, "CPUs": "4 × Another Processor"}, [found], path)
    assert list(expected.read(path).ratios) == [found.kind.label(50)]


def test_expected_ratios_current() -> None:
    """Every ratio in the file is of a load that a run without options measures."""
    groups = command.plan_of(quick=False).groups()
    labels = {kind.label(size) for group in groups for kind in group.kinds for size in kind.sizes}
    assert set(expected.read().ratios) <= labels


def test_cpu_of_ended_threads() -> None:
    """The CPU time of a process includes that of its threads that have ended."""
    tree = ProcessTree(os.getpid())
    before = tree.cpu_seconds()
    spent: list[float] = []

    def work() -> None:
        while time.thread_time() < 0.02:
            pass
        spent.append(time.thread_time())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert tree.cpu_seconds() - before >= spent[0]
