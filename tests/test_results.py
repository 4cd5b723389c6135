"""Tests of results that are written as they are made."""

import csv
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from vtn_hf.results import ResultFile, begin_or_go_on, one_run


COLUMNS = ["video", "score"]
NAMES = ['a,"b".mp4', "two\nlines.mp4", "\udcff日"]
ROWS = [{"video": name, "score": number / 8} for number, name in enumerate(NAMES)]


def read(path: Path) -> list[dict]:
    """As other programs do."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    if path.suffix == ".csv":
        rows = csv.DictReader(text.splitlines(keepends=True))
        return [{"video": row["video"], "score": float(row["score"])} for row in rows]
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


@pytest.fixture(params=ResultFile.SUFFIXES)
def path(tmp_path, request) -> Path:
    return tmp_path / f"new/scores{request.param}"


def test_a_record_is_in_the_file_at_once(path):
    with ResultFile(path, COLUMNS) as file:
        assert not path.exists()
        for number, row in enumerate(ROWS, start=1):
            file.append(row)
            assert read(path) == ROWS[:number]
    with ResultFile(path, COLUMNS) as file:
        assert [row["video"] for row in file.records] == NAMES
        file.append({"video": "last", "score": 1.0})
    assert read(path) == [*ROWS, {"video": "last", "score": 1.0}]


def test_a_record_that_was_cut_off_is_written_again(path):
    with ResultFile(path, COLUMNS) as file:
        for row in ROWS:
            file.append(row)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with ResultFile(path, COLUMNS) as file:
            done = len(file.records)
            for row in ROWS[done:]:
                file.append(row)
        assert path.read_bytes() == whole, length
    assert done == len(ROWS)


def test_a_full_disk_costs_the_new_record_only(path, monkeypatch):
    with ResultFile(path, COLUMNS) as file:
        file.append(ROWS[0])
        raw, calls = file._file, []

        class Full:
            def write(self, content):
                calls.append(content)
                if len(calls) == 2:
                    raise OSError(28, "No space left on device")
                return raw.write(content[:5])

            def __getattr__(self, name):
                return getattr(raw, name)

        file._file = Full()
        with pytest.raises(OSError, match="No space left"):
            file.append(ROWS[1])
        file._file = raw
        assert read(path) == ROWS[:1]
        file.append(ROWS[2])
    assert read(path) == [ROWS[0], ROWS[2]]


def test_no_results_are_results_but_a_run_that_was_stopped_before_is_none(path):
    with pytest.raises(KeyboardInterrupt), ResultFile(path, COLUMNS):
        raise KeyboardInterrupt
    assert not path.exists()
    with ResultFile(path, COLUMNS):
        pass
    assert read(path) == []


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"scores.txt must end in .jsonl, .json, .csv"):
        ResultFile(tmp_path / "scores.txt", COLUMNS)


@pytest.mark.parametrize("is_folder", [False, True])
def test_the_same_settings_go_on(tmp_path, is_folder):
    output = tmp_path / "output.csv"
    content = output / "a" if is_folder else output
    if is_folder:
        output.mkdir()
    settings = {"fps": 5, "sizes": (1, 2), "model": "RUN"}
    assert not begin_or_go_on(output, {"fps": 4})
    assert not begin_or_go_on(output, settings)  # nothing has been made with the others
    content.write_text("precious")
    assert begin_or_go_on(output, settings)
    with pytest.raises(ValueError, match=r"output.csv was made with fps 5, not 10; window None, not 4\. "):
        begin_or_go_on(output, settings | {"fps": 10, "window": 4})
    assert begin_or_go_on(output, settings)
    assert not begin_or_go_on(output, {"fps": 10}, overwrite=True)
    assert begin_or_go_on(output, {"fps": 10})


def test_what_others_made_is_refused(tmp_path):
    (tmp_path / "scores.csv").write_text("precious")
    for output in (tmp_path, tmp_path / "scores.csv"):
        with pytest.raises(FileExistsError, match=f"{output} exists already"):
            begin_or_go_on(output, {})


def hold(output: Path, connection):
    with one_run(output):
        connection.send("in")
        time.sleep(60)


def test_one_run_at_a_time_even_after_one_was_killed(tmp_path):
    context = multiprocessing.get_context("fork")
    for output in (tmp_path, tmp_path / "new/scores.csv"):
        mine, its = context.Pipe()
        process = context.Process(target=hold, args=(output, its))
        process.start()
        assert mine.recv() == "in"
        with pytest.raises(BlockingIOError, match=f"is writing {output}"), one_run(output):
            pass
        process.kill()
        process.join()
        with one_run(output), pytest.raises(BlockingIOError), one_run(output):
            pass
    assert os.listdir(tmp_path / "new") == [] and os.listdir(tmp_path) == ["new"]
