import os
import time

import pytest

from vtn_hf.data.file_pool import map_files


def work(item):
    if item == "crash":
        os.abort()
    if item == "hang":
        time.sleep(1000)
    if item == "fail":
        raise ValueError("no")
    return item * 2


@pytest.mark.parametrize("num_workers", [1, 2])
def test_crashes_and_hangs_cost_their_item_only(num_workers):
    items = ["a", "crash", "b", "hang", "fail", "c"]
    results = dict(map_files(work, items, num_workers, time_limit_sec=1))
    assert {item: results[item] for item in "abc"} == {"a": "aa", "b": "bb", "c": "cc"}
    assert isinstance(results["crash"], ChildProcessError)
    assert isinstance(results["fail"], ValueError)
    assert isinstance(results["hang"], TimeoutError)
    assert set(results) == set(items)


def test_nothing_to_do():
    assert list(map_files(work, [], 2, 1)) == []
