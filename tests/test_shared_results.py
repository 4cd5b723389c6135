"""Results of several processes: each item once, in order, whatever was stopped when."""

import multiprocessing
import os
import random
import signal
import time
from types import SimpleNamespace

import pytest

from vtn_hf.results import read_records
from vtn_hf.shared_results import SharedResults


ITEMS = [f"{number}.mp4" for number in range(100)]
COLUMNS = ["video", "score", "error"]


class Barrier(SimpleNamespace):
    """What `PartialState` knows of processes."""

    @property
    def is_main_process(self):
        return self.process_index == 0

    def wait_for_everyone(self):
        if self.barrier is not None:
            self.barrier.wait()


def state(index=0, num_processes=1, barrier=None):
    return Barrier(process_index=index, num_processes=num_processes, barrier=barrier)


def is_done(record):
    return not record.get("error")


def work(path, state, seconds=0.0):
    results = SharedResults(path, COLUMNS, "video", state)
    for item in results.begin(ITEMS, is_done):
        time.sleep(seconds)
        bad = item.startswith("7")
        results.append({"video": item, "error": "no good"} if bad else {"video": item, "score": int(item[:-4]) / 8})
    return results.finish()


def launch(path, num_processes, seconds=0.0):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(num_processes)
    processes = [
        context.Process(target=work, args=(path, state(index, num_processes, barrier), seconds))
        for index in range(num_processes)
    ]
    for process in processes:
        process.start()
    return processes


@pytest.fixture(params=[".jsonl", ".json", ".csv"])
def path(tmp_path, request):
    return tmp_path / f"scores{request.param}"


def test_one_and_several_give_the_same(path, tmp_path):
    records = work(path, state())
    assert list(records) == ITEMS and [record["video"] for record in read_records(path, COLUMNS)] == ITEMS
    for number in (2, 3):
        other = tmp_path / f"{number}{path.suffix}"
        for process in launch(other, number):
            process.join()
        assert other.read_bytes() == path.read_bytes()
        assert sorted(tmp_path.glob(".*")) == []


def test_killed_again_and_again(path, tmp_path):
    """With another number of processes each time; what failed is tried again and stands there once."""
    work(expected := tmp_path / f"expected{path.suffix}", state())
    generator = random.Random(0)
    for number in (3, 1, 4):
        processes = launch(path, number, seconds=0.05)
        time.sleep(generator.uniform(0.1, 0.3))
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
    done = SharedResults(path, COLUMNS, "video", state()).read()
    assert len(done) < len(ITEMS)
    for process in launch(path, 2):
        process.join()
    assert path.read_bytes() == expected.read_bytes()


def test_other_items(path):
    """Records of items that are not asked for any more stay, behind the others."""
    results = SharedResults(path, COLUMNS, "video", state())
    assert results.begin(["b", "a"], is_done) == ["b", "a"] and results.num_left == 2
    results.append({"video": "b", "score": 1})
    results.finish()
    results = SharedResults(path, COLUMNS, "video", state())
    assert results.begin(["c"], is_done) == ["c"]
    results.append({"video": "c", "score": 2})
    results.finish()
    assert [record["video"] for record in read_records(path, COLUMNS)] == ["c", "b"]
