import os
import signal
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from vtn_hf.data.file_pool import map_files


def work(item):
    if item == "crash":
        os.abort()
    if item == "end":
        sys.exit(3)
    if item == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "hang":
        time.sleep(1000)
    if item == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    if item == "fail":
        raise ValueError("no")
    if item == "memory":
        return len(bytearray(8 * 2**30))
    return item * 2


@pytest.mark.parametrize("num_workers", [1, 2])
def test_crashes_and_hangs_cost_their_item_only(num_workers):
    items = ["a", "crash", "kill", "b", "hang", "deaf", "fail", "memory", "end", "c"]
    results = dict(map_files(work, items, num_workers, time_limit_sec=1))
    assert {item: results[item] for item in "abc"} == {"a": "aa", "b": "bb", "c": "cc"}
    assert isinstance(results["crash"], ChildProcessError) and "exit code -6" in str(results["crash"])
    assert isinstance(results["kill"], ChildProcessError) and "exit code -9" in str(results["kill"])
    assert isinstance(results["fail"], ValueError)
    for item in ("hang", "deaf"):
        assert isinstance(results[item], TimeoutError) and str(results[item]) == "it takes longer than 1 s"
    assert isinstance(results["end"], SystemExit)
    if sys.platform == "linux":
        assert isinstance(results["memory"], MemoryError)
    assert set(results) == set(items)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_broken_pools_lose_nothing(monkeypatch, num_workers):
    def break_down(*args):
        raise BrokenProcessPool

    # As when a process ends before it was heard what it works on.
    monkeypatch.setattr("pebble.pool.process.PoolManager.find_expired_task", break_down)
    results = list(map_files(work, ["a", "b", "crash", "c", "fail", "kill", "d"], num_workers, time_limit_sec=10))
    assert sorted(item for item, _ in results) == ["a", "b", "c", "crash", "d", "fail", "kill"]
    results = dict(results)
    assert {item: results[item] for item in "abcd"} == {"a": "aa", "b": "bb", "c": "cc", "d": "dd"}
    for item in ("crash", "kill"):
        assert isinstance(results[item], ChildProcessError) and "its process ended" in str(results[item])
    assert isinstance(results["fail"], ValueError)


def test_nothing_to_do():
    assert list(map_files(work, [], 2, 1)) == []


def test_items_are_taken_as_they_are_needed():
    taken = []

    def give():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_files(work, give(), 1, 10)
    assert next(results) == (0, 0)
    results.close()
    assert len(taken) < 10
