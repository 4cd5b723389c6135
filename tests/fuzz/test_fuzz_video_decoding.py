"""A short run of the fuzzer, the cases that once went wrong, and a check that it would notice."""

import os
import time

import pytest
from fuzz_video_decoding import CORPUS, MUTATIONS, damage, is_good, make_sources, run_cases


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return make_sources(tmp_path_factory.mktemp("sources"))


def test_short_run(sources):
    results, _ = run_cases([*CORPUS, *range(100_000, 100_030)], sources)
    assert [(seed, result) for seed, result in results.items() if not is_good(result)] == []
    # Damage of all kinds was done, and some of it is noticed while some does no harm.
    assert {damage(seed, sources)[1] for seed in results} == {mutation.__name__ for mutation in MUTATIONS}
    assert {"error", "other frames"} <= set(results.values())


def abort(*args):
    os.abort()


def divide_by_zero(*args):
    return 1 / 0


@pytest.mark.parametrize(("trouble", "expected"), [(abort, "crash: SIGABRT"), (divide_by_zero, "ZeroDivisionError")])
def test_trouble_is_noticed(sources, monkeypatch, trouble, expected):
    monkeypatch.setattr("fuzz_video_decoding.decode_damaged", trouble)
    results, _ = run_cases([1], sources)
    assert results[1].startswith(expected)


def test_hang_is_noticed(sources, monkeypatch):
    monkeypatch.setattr("fuzz_video_decoding.decode_damaged", lambda *args: time.sleep(60))
    assert run_cases([1], sources, time_limit_sec=1)[0] == {1: "hang"}
