"""Too few readable videos: recognised as soon as it is clear, and never where it is chance."""

import numpy as np
import pytest

from vtn_hf.training.min_coverage import check_coverage, is_hopeless


def test_the_share_that_is_asked_for_is_enough():
    check_coverage(5, 10, 0.5, "videos")
    check_coverage(0, 0, 0.5, "videos")
    with pytest.raises(ValueError, match=r"Only 4 of 10 videos could be read; --min_coverage asks for 50%"):
        check_coverage(4, 10, 0.5, "videos")
    with pytest.raises(ValueError, match="Only 0 of 10"):
        check_coverage(0, 10, 0.0, "videos")


def test_nothing_readable_is_clear_after_29_videos():
    assert [number for number in range(100) if is_hopeless(number, number, 0.5)][0] == 29
    # Where all must be readable, the first is enough; where nothing need be, none is.
    assert is_hopeless(1, 1000, 1.0)
    assert not is_hopeless(1000, 1000, 0.0)


@pytest.mark.parametrize("min_coverage", [0.2, 0.5, 0.9])
def test_chance_is_no_reason_to_stop(min_coverage):
    generator = np.random.default_rng(0)
    failed = (generator.random((200, 2000)) > min_coverage + 0.02).cumsum(axis=1)
    stopped = [
        any(is_hopeless(count, tried, min_coverage) for tried, count in enumerate(run, start=1)) for run in failed
    ]
    assert not any(stopped)
    failed = (generator.random((50, 2000)) > min_coverage - 0.15).cumsum(axis=1)
    assert all(is_hopeless(run[-1], 2000, min_coverage) for run in failed)
