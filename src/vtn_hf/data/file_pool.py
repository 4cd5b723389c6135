"""Work on many files in processes that may crash or hang without taking the others along."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any


def map_files(
    function: Callable[[Any], Any], items: Iterable, num_workers: int, time_limit_sec: float
) -> Iterator[tuple[Any, Any]]:
    """
    Calls a function on each item in one of several processes.

    Unlike with `concurrent.futures`, a process that crashes or takes too long costs its item and nothing else: it is
    ended and another one takes its place.

    Args:
        function (`Callable`): Can be pickled.
        items (`Iterable`): What to call it with, one at a time.
        num_workers (`int`): Number of processes.
        time_limit_sec (`float`): Seconds for one item.

    Yields:
        `tuple`: Item and result, as they are ready. The result is the exception where there was one; a `TimeoutError`
        or `ChildProcessError` where the process had to be ended or ended by itself.
    """
    waiting = iter(items)
    workers: dict[Connection, _Worker] = {}
    try:
        while True:
            while len(workers) < num_workers and (item := next(waiting, _NOTHING)) is not _NOTHING:
                worker = _Worker(function, time_limit_sec)
                worker.start(item)
                workers[worker.connection] = worker
            if not workers:
                return
            next_deadline = min(worker.deadline for worker in workers.values())
            ready = wait(list(workers), timeout=max(0, next_deadline - time.monotonic()))
            late = [] if ready else [connection for connection, each in workers.items() if each.is_late()]
            for connection in [*ready, *late]:
                if workers[connection].is_starting and workers[connection].begin():
                    continue
                worker = workers.pop(connection)
                item, result = worker.item, worker.finish()
                if worker.is_alive and (next_item := next(waiting, _NOTHING)) is not _NOTHING:
                    worker.start(next_item)
                    workers[connection] = worker
                else:
                    worker.end()
                yield item, result
    finally:
        for worker in workers.values():
            worker.end()


_NOTHING = object()
_START_LIMIT_SEC = 300


class _Worker:
    """A process that works on one item after the other."""

    def __init__(self, function: Callable, time_limit_sec: float):
        # New interpreters: forks of a process with threads may hang.
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(function, other_end), daemon=True)
        self._process.start()
        other_end.close()
        self._time_limit_sec = time_limit_sec
        self.is_starting = True
        self.is_alive = True

    def start(self, item: Any):
        self.item = item
        self.connection.send(item)
        self.deadline = time.monotonic() + (_START_LIMIT_SEC if self.is_starting else self._time_limit_sec)

    def begin(self) -> bool:
        """The process has imported what it needs: the time of its item begins now. False if it has ended instead."""
        self.is_starting = False
        self.deadline = time.monotonic() + self._time_limit_sec
        try:
            return self.connection.poll() and self.connection.recv() is None
        except (EOFError, ConnectionResetError):
            return False

    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def finish(self) -> Any:
        """The result; ends the process if there is none."""
        try:
            if self.connection.poll():
                return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.end()
            return ChildProcessError(f"its process ended with exit code {self._process.exitcode}")
        self.end()
        return TimeoutError(f"it takes longer than {self._time_limit_sec} s")

    def end(self):
        self.is_alive = False
        self.connection.close()
        self._process.kill()
        self._process.join()


def _serve(function: Callable, connection: Connection):
    """What a process does: it says that it is there, takes items from a pipe and puts results back."""
    connection.send(None)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            result = function(item)
        except Exception as error:
            result = error
        connection.send(result)
