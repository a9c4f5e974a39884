"""The load generator: plays scenarios against targets, in separate processes."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import ssl
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from benchmarks import eventloop
from benchmarks.certificates import CERTIFICATE_NAME
from benchmarks.processes import end, start
from benchmarks.responses import Damaged
from benchmarks.scenarios import Scenario
from benchmarks.tally import Progress, Tally
from benchmarks.target import Target

_PROCESSES = multiprocessing.get_context("spawn")
_REPORT_INTERVAL_SECONDS = 0.1


class Generator:
    """The processes of the generator, as a context manager that stops them.

    They are started when a scenario needs them and play the following ones, too: starting one takes longer than a
    short scenario.
    """

    def __init__(self) -> None:
        self._processes: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *failure: object) -> None:
        for process, commands in self._processes:
            commands.close()
            end(process)

    def play(self, target: Target, scenario: Scenario) -> Load:
        """Start a scenario; the previous one must have ended."""
        shares = scenario.shares()
        while len(self._processes) < len(shares):
            self._start_process()
        used = [commands for _, commands in self._processes[: len(shares)]]
        for commands, share in zip(used, shares, strict=True):
            commands.send((target, share))
        return Load(used)

    def _start_process(self) -> None:
        commands, served = _PROCESSES.Pipe()
        process = _PROCESSES.Process(target=_serve, args=(served,), daemon=True)
        start(process)
        served.close()
        self._processes.append((process, commands))


class Load:
    """A scenario that is being played.

    :ivar tally: the results, complete once :meth:`progress` has ended.
    """

    def __init__(self, processes: list[Connection]) -> None:
        self.tally = Tally()
        self._reports = dict.fromkeys(processes, Progress())

    def progress(self) -> Iterator[Progress]:
        """Yield the total progress, several times a second, until the scenario has ended.

        :raises EOFError: the generator itself failed; its traceback is on standard error.
        """
        playing = set(self._reports)
        while playing:
            for reports in wait(list(playing)):
                assert isinstance(reports, Connection)
                report = reports.recv()
                if isinstance(report, Tally):
                    playing.remove(reports)
                    self.tally += report
                    report = report.progress()
                self._reports[reports] = report
            yield sum(self._reports.values(), Progress())

    def wait(self) -> Tally:
        """Wait until the scenario has ended, and return the results."""
        for _ in self.progress():
            pass
        return self.tally


def _serve(commands: Connection) -> None:
    """Play scenarios until the pipe is closed. Sends :class:`Progress` ten times a second and a :class:`Tally` last."""
    while True:
        try:
            target, scenario = commands.recv()
        except EOFError:
            return
        eventloop.run(_run(target, scenario, commands))
        gc.collect()


async def _run(target: Target, scenario: Scenario, reports: Connection) -> None:
    tally = Tally()
    tls = None if target.authority is None else ssl.create_default_context(cafile=target.authority)
    reporter = asyncio.create_task(_report(tally, reports))

    async def connect(client: asyncio.Protocol) -> None:
        name = CERTIFICATE_NAME if tls else None
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: client, *target.address, ssl=tls, server_hostname=name)
        except OSError as exc:
            raise Damaged(f"no connection: {exc}") from exc

    began, cpu = time.monotonic(), time.process_time()
    tasks = [asyncio.create_task(task) for task in scenario.tasks(target, connect, tally)]
    for task in tasks:
        task.add_done_callback(lambda done: _count_failure(done, tally))
    done, late = await asyncio.wait(tasks, timeout=scenario.time_limit)
    tally.busy = (time.process_time() - cpu) / (time.monotonic() - began)
    if late:
        tally.failures[f"not ended within {scenario.time_limit:.0f} s"] += len(late)
    for task in done:
        if not isinstance(task.exception(), Damaged):
            task.result()  # Exceptions that a client does not count as failures are bugs.
    for task in (*late, reporter):
        task.cancel()
    await asyncio.gather(*late, reporter, return_exceptions=True)
    reports.send(tally)


def _count_failure(task: asyncio.Task[None], tally: Tally) -> None:
    if not task.cancelled() and isinstance(exc := task.exception(), Damaged):
        tally.failures[str(exc)] += 1


async def _report(tally: Tally, reports: Connection) -> None:
    while True:
        reports.send(tally.progress())
        await asyncio.sleep(_REPORT_INTERVAL_SECONDS)
