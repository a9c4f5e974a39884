"""One value a process, in real processes and threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ocm_wsgi.storage.per_process import PerProcess


def in_child(check: Callable[[], bool]) -> bool:
    """Return what ``check`` returns in a child that was forked here."""
    pid = os.fork()
    if pid == 0:
        # Without an answer the child is killed, for instance where a lock was held during the fork.
        signal.alarm(20)
        result = False
        try:
            result = check()
        finally:
            os._exit(0 if result else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_made_once() -> None:
    """The value is made at the first use, and is the same one at the next."""
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    values = PerProcess(make)
    assert made == []
    assert values.get() is values.get()
    assert len(made) == 1


def test_falsy_value_is_a_value() -> None:
    """A value that is false in a condition is not made again."""
    values: PerProcess[list[int]] = PerProcess(list)
    values.get()
    assert values.get() is values.get()


def test_pop() -> None:
    """A value that was removed is returned once; the next use makes another."""
    values = PerProcess(object)
    assert values.pop() is None
    first = values.get()
    assert values.pop() is first
    assert values.pop() is None
    assert values.get() is not first


def test_one_value_for_all_threads() -> None:
    """Threads that use it for the first time simultaneously get the same value."""
    barrier = threading.Barrier(8)
    values = PerProcess(object)

    def use(_: int) -> object:
        barrier.wait()
        return values.get()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(use, range(8)))) == 1


def test_fork() -> None:
    """A child makes a value of its own and keeps the inherited one alive; the parent's is unchanged."""
    freed: list[int] = []

    class Value:
        def __init__(self) -> None:
            self.pid = os.getpid()

        def __del__(self) -> None:
            freed.append(self.pid)

    values = PerProcess(Value)
    parent = values.get()
    assert parent.pid == os.getpid()
    assert in_child(lambda: values.get().pid == os.getpid() and freed == [])
    assert values.get() is parent


def test_fork_pop() -> None:
    """A child does not remove what it inherited."""
    values = PerProcess(object)
    first = values.get()
    assert in_child(lambda: values.pop() is None)
    assert values.pop() is first


def test_on_inherited() -> None:
    """A child releases what it inherited once, before its own value is made; the parent releases nothing."""
    events: list[object] = []

    def make() -> int:
        events.append("made")
        return os.getpid()

    values = PerProcess(make, on_inherited=events.append)
    parent = values.get()

    def check() -> bool:
        values.get()
        values.get()
        return events == ["made", parent, "made"]

    assert in_child(check)
    assert values.get() == parent
    assert events == ["made"]


def test_fork_while_threads_use_it() -> None:
    """A fork at any moment leaves the child able to make its value."""
    is_over = threading.Event()
    values = PerProcess(object)

    def use() -> None:
        while not is_over.is_set():
            values.get()
            values.pop()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert all(in_child(lambda: values.get() is values.get()) for _ in range(20))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
