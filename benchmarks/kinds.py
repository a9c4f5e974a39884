"""The kinds of loads: what is played, in which sizes, and which figures are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import wire
from benchmarks.figures import ARRIVAL_COLUMNS, SOCKET_COLUMNS, STREAM_COLUMNS, TURN_COLUMNS, Column, Measurement
from benchmarks.measures import Meter, Watch
from benchmarks.others import Other
from benchmarks.scenarios import QUIET_SHARE, Arrivals, Sockets, Streams, Turns, spread

#: The names of all kinds, in the order in which they are measured.
NAMES = ("turns", "streams", "sockets", "arrivals")
# Streams started per second: with 2,000, all are open before the first of the default length ends.
_STARTS_PER_SECOND = 300
# A load that takes this much longer than necessary is aborted.
_GRACE_SECONDS = 15.0
# How long streams are all open before the first new turn arrives, and after the last one.
_QUIET_SECONDS = 0.5


@dataclass(frozen=True)
class Kind:
    """A kind of load, in several sizes.

    :ivar counted: the unit of the size.
    :ivar column: the name of the figure that is compared with nginx first.
    :ivar label: names a load of a size, with all its parameters.
    :ivar others: the other programs that are measured.
    """

    name: str
    counted: str
    title: str
    columns: Sequence[Column]
    column: str
    sizes: Sequence[int]
    label: Callable[[int], str]
    others: Sequence[Other]
    measure: Callable[[int, Meter, Watch], Measurement]


@dataclass(frozen=True)
class Loads:
    """The sizes and the parameters of all kinds of loads.

    :ivar connections: of short turns, one load each.
    :ivar turn_seconds: the duration of loads of short turns.
    :ivar streams: the numbers of concurrent streams, one load each.
    :ivar sockets: the numbers of concurrent WebSockets, one load each.
    :ivar events: the number of events of each stream and socket.
    :ivar rate: the rate of each stream and socket, in events per second.
    :ivar arrivals: the numbers of new turns per second beside open streams, one load each.
    :ivar arrival_streams: the number of these streams.
    :ivar arrival_rate: the rate of each of these streams, in events per second.
    :ivar arrival_seconds: how long new turns arrive.
    """

    connections: Sequence[int]
    turn_seconds: float
    streams: Sequence[int]
    sockets: Sequence[int]
    events: int
    rate: float
    arrivals: Sequence[int]
    arrival_streams: int
    arrival_rate: float
    arrival_seconds: float

    def most_at_once(self) -> int:
        """Return the number of connections of the largest load."""
        beside = self.arrival_streams if self.arrivals else 0
        return max((*self.streams, *self.sockets, *self.connections, beside))

    def kinds(self, names: Sequence[str], transport: str, others: Sequence[Other]) -> list[Kind]:
        """Return the kinds that have these names and at least one size.

        :param transport: to upstream; for titles.
        """
        makers = {
            "turns": self._turn_kind,
            "streams": self._stream_kind,
            "sockets": self._socket_kind,
            "arrivals": self._arrival_kind,
        }
        kinds = [makers[name](f"{transport} upstream", others) for name in NAMES if name in names]
        return [kind for kind in kinds if kind.sizes]

    def _turn_kind(self, transport: str, others: Sequence[Other]) -> Kind:
        what = f"of {wire.SHORT_EVENTS} events, one after another over each connection, {transport}"

        def measure(connections: int, meter: Meter, watch: Watch) -> Measurement:
            time_limit = self.turn_seconds + _GRACE_SECONDS
            return meter.turns(connections, Turns(connections, self.turn_seconds, time_limit), watch)

        return Kind(
            "turns",
            "connections",
            f"Short turns {what}",
            TURN_COLUMNS,
            "cpu_us_per_turn",
            self.connections,
            lambda size: f"short turns of {wire.SHORT_EVENTS} events, {_counted(size, 'connection')}, {transport}",
            others,
            measure,
        )

    def _stream_kind(self, transport: str, others: Sequence[Other]) -> Kind:
        what = f"{self._pace('events')}, {transport}"

        def measure(count: int, meter: Meter, watch: Watch) -> Measurement:
            starts = _starts(count)
            return meter.streams(count, Streams(starts, self.events, self.rate, self._time_limit(starts)), watch)

        return Kind(
            "streams",
            "streams",
            f"Streams of {what}",
            STREAM_COLUMNS,
            "cpu_us_per_event",
            self.streams,
            lambda size: f"{_counted(size, 'stream')} of {what}",
            others,
            measure,
        )

    def _socket_kind(self, transport: str, others: Sequence[Other]) -> Kind:
        what = f"{self._pace('messages')}, {transport}"

        def measure(count: int, meter: Meter, watch: Watch) -> Measurement:
            starts = _starts(count)
            return meter.streams(count, Sockets(starts, self.events, self.rate, self._time_limit(starts)), watch)

        return Kind(
            "sockets",
            "sockets",
            f"WebSockets with a turn of {what}, uncompressed",
            SOCKET_COLUMNS,
            "cpu_us_per_event",
            self.sockets,
            lambda size: f"{_counted(size, 'WebSocket')} of {what}",
            [other for other in others if other.kind.has_sockets],
            measure,
        )

    def _arrival_kind(self, transport: str, others: Sequence[Other]) -> Kind:
        beside = f"beside {self.arrival_streams:,} streams of {self.arrival_rate:g} events a second, {transport}"
        return Kind(
            "arrivals",
            "turns per s",
            f"New short turns {beside}",
            ARRIVAL_COLUMNS,
            "cpu_percent",
            self.arrivals,
            lambda size: f"{size:,} new turns a second {beside}",
            others,
            lambda size, meter, watch: meter.arrivals(size, self._arrivals(size), watch),
        )

    def _arrivals(self, per_second: int) -> Arrivals:
        starts = _starts(self.arrival_streams)
        begin = starts[-1] + _QUIET_SECONDS
        seconds = begin + self.arrival_seconds + _QUIET_SECONDS
        events = round(seconds * self.arrival_rate)
        count = round(per_second * self.arrival_seconds)
        quiet = count // QUIET_SHARE
        return Arrivals(
            Streams(starts, events, self.arrival_rate, 2 * seconds + _GRACE_SECONDS),
            spread(count - quiet, begin, self.arrival_seconds),
            spread(quiet, begin, self.arrival_seconds),
        )

    def _pace(self, events: str) -> str:
        return f"{self.events:,} {events} of {wire.EVENT_BYTES} B, {self.rate:g} a second each"

    def _time_limit(self, starts: Sequence[float]) -> float:
        return 2 * (starts[-1] + self.events / self.rate) + _GRACE_SECONDS


def _starts(count: int) -> list[float]:
    return spread(count, 0.0, count / _STARTS_PER_SECOND)


def _counted(count: int, unit: str) -> str:
    return f"{count:,} {unit}" + ("" if count == 1 else "s")
