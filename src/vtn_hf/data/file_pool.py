"""Work on many files in processes that may crash or hang without taking the others along."""

import multiprocessing
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool


# Tasks that wait at each process, so that none is idle while the results of others are taken.
_TASKS_PER_WORKER = 2


def map_files(
    function: Callable[[Any], Any],
    items: Iterable,
    num_workers: int,
    time_limit_sec: float,
    memory_limit_gib: float | None = 4,
) -> Generator[tuple[Any, Any]]:
    """
    Calls a function on each item in one of several processes.

    A process that crashes, takes too long or needs too much memory costs its item and nothing else: another one takes
    its place.

    Args:
        function (`Callable`): Can be pickled.
        items (`Iterable`): What to call it with, one at a time.
        num_workers (`int`): Number of processes.
        time_limit_sec (`float`): Seconds for one item.
        memory_limit_gib (`float`, *optional*, defaults to 4): What each process may need beyond its start, where the
            system can limit it (Linux).

    Yields:
        `tuple`: Item and result, as they are ready. The result is the exception where there was one; a `TimeoutError`
        or `ChildProcessError` where the process had to be ended or ended by itself.
    """
    waiting, limits = iter(items), (time_limit_sec, memory_limit_gib)
    while suspects := (yield from _map_in_pool(function, waiting, num_workers, *limits)):
        for item in suspects:
            if (yield from _map_in_pool(function, iter([item]), 1, *limits)):
                yield item, ChildProcessError("its process ended")


def _map_in_pool(
    function: Callable[[Any], Any],
    items: Iterator,
    num_workers: int,
    time_limit_sec: float,
    memory_limit_gib: float | None,
) -> Generator[tuple[Any, Any], None, list]:
    """
    As [`map_files`], until all is done or the pool breaks: it does so where a process ends before it was heard what it
    works on. Returns the items that were in the pool then.
    """
    pool = ProcessPool(num_workers, initializer=limit_memory, initargs=[memory_limit_gib], context=_make_context())
    tasks: dict[Future, Any] = {}
    try:
        while True:
            for item in islice(items, num_workers * _TASKS_PER_WORKER - len(tasks)):
                try:
                    tasks[pool.schedule(function, [item], timeout=time_limit_sec)] = item
                except RuntimeError:  # it is broken
                    return [*tasks.values(), item]
            if not tasks:
                return []
            done, _ = wait(tasks, return_when=FIRST_COMPLETED)
            for task in filter(done.__contains__, list(tasks)):
                if isinstance(task.exception(), BrokenProcessPool):
                    return list(tasks.values())
                yield tasks.pop(task), _get_result(task, time_limit_sec)
    finally:
        pool.stop()
        pool.join()


def _make_context() -> BaseContext:
    """
    How processes begin: as forks of one that has imported this package and nothing else, so that a new one costs
    little; where there are no forks, as new interpreters. (Forks of this process, which has threads, may hang.)
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _get_result(task: Future, time_limit_sec: float) -> Any:
    error = task.exception()
    if isinstance(error, ProcessExpired):
        return ChildProcessError(f"its process ended with exit code {error.exitcode}")
    if isinstance(error, TimeoutError):
        return TimeoutError(f"it takes longer than {time_limit_sec:g} s")
    return task.result() if error is None else error


def limit_memory(gib: float | None):
    """
    Bounds what this process, and FFmpeg in it, may take from now on: what goes beyond fails, and the process lives.

    Args:
        gib (`float`, *optional*): Beyond what it has now. Nothing happens without it, or on other systems than Linux.
    """
    status = Path("/proc/self/status")
    if gib is None or not status.is_file():
        return
    import resource

    (kib,) = re.findall(r"VmData:\s*(\d+) kB", status.read_text())
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(kib) * 2**10 + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
