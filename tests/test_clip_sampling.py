"""Frames of clips: what must hold for any video, numbers worked out by hand, and the rule of the original."""

import numpy as np
import pytest
from test_frame_sampling_vtn import LENGTHS, NUMS_FRAMES, STEADY, UNEVEN

from vtn_hf.data.clip_sampling import sample_clip, sample_clips


@pytest.mark.parametrize(
    ("total", "num_frames", "span", "expected"),
    [
        (10, 4, None, [0, 3, 6, 9]),
        # Ten frames, a clip of four from frame 3 on: 3, 4, 5, 6.
        (10, 4, 4, [3, 4, 5, 6]),
        # From the first whole frame after 2.5.
        (10, 3, 5, [3, 5, 7]),
        (10, 1, 4, [3]),
        # As in the original, a clip longer than the video runs past its end and repeats the last frame.
        (3, 4, 6, [0, 1, 2, 2]),
        (3, 6, None, [0, 0, 0, 1, 1, 2]),
        (1, 3, 16, [0, 0, 0]),
    ],
)
def test_clip_without_generator_is_central(total, num_frames, span, expected):
    assert sample_clip(total, num_frames, span).tolist() == expected


@pytest.mark.parametrize("span", [None, 1, 2.5, 16, 63.7, 1000])
@pytest.mark.parametrize("num_frames", NUMS_FRAMES)
def test_clip_stays_inside_and_never_goes_back(num_frames, span):
    generator = np.random.default_rng(0)
    for total in LENGTHS * 5:
        indices = sample_clip(total, num_frames, span, generator)
        assert indices.dtype == np.int64
        assert len(indices) == num_frames
        assert indices.min() >= 0
        assert indices.max() < total
        assert (np.diff(indices) >= 0).all()
        if span is not None:
            assert indices[-1] - indices[0] < span


def test_clip_shorter_than_a_frame_is_that_frame():
    generator = np.random.default_rng(0)
    for _ in range(100):
        indices = sample_clip(10, 4, 0.25, generator)
        assert (indices == indices[0]).all()


@pytest.mark.parametrize(
    ("total", "num_frames", "span"), [(300, 16, 64), (300, 16, 76.8), (70, 16, 64.0), (20, 8, 64)]
)
def test_clip_follows_the_rule_of_the_original(total, num_frames, span):
    # PySlowFast's `get_start_end_idx`, the frames `pyav_decode` keeps, and `temporal_sampling` of those.
    for seed in range(10):
        start = np.random.default_rng(seed).uniform(0, max(total - span, 0))
        decoded = np.arange(int(np.ceil(start)), total)
        rule = decoded[np.linspace(0, span - 1, num_frames).clip(0, len(decoded) - 1).astype(int)]
        indices = sample_clip(total, num_frames, span, np.random.default_rng(seed))
        assert indices.tolist() == rule.tolist()


def test_clip_starts_anywhere():
    generator = np.random.default_rng(0)
    starts = [int(sample_clip(40, 4, 10, generator)[0]) for _ in range(500)]
    assert set(starts) == set(range(1, 31))


def test_clip_depends_on_the_generator_alone():
    draws = [
        [sample_clip(300, 16, 64, generator).tolist() for _ in range(3)]
        for generator in (np.random.default_rng(7), np.random.default_rng(7), np.random.default_rng(8))
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0][0] != draws[0][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "`total_num_frames` must be positive, got 0"),
        ((10, 0), "`num_frames` must be positive, got 0"),
        ((10, 4, 0), "`span` must be positive, got 0"),
        ((10, 4, -1.5), "`span` must be positive, got -1.5"),
        ((10, 4, float("nan")), "`span` must be positive, got nan"),
    ],
)
def test_numbers_that_are_not_positive(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_clip(*arguments)


def test_clips_are_spread_from_the_start_to_the_end():
    assert sample_clips(40, 3, 4, 10).tolist() == [[0, 3, 6, 9], [15, 18, 21, 24], [30, 33, 36, 39]]
    np.testing.assert_array_equal(sample_clips(40, 1, 4, 10)[0], sample_clip(40, 4, 10))
    assert sample_clips(4, 2, 4, 10).tolist() == [[0, 3, 3, 3]] * 2
    with pytest.raises(ValueError, match="`num_clips` must be positive, got 0"):
        sample_clips(40, 0, 4, 10)


@pytest.mark.parametrize("jitter", [0, 0.001, 0.015])
def test_a_constant_rate_needs_no_times(jitter):
    """Times that are rounded to ticks are those of a constant rate, too."""
    times = STEADY + np.random.default_rng(0).uniform(-jitter, jitter, 40)
    times -= times[0]
    for generator_seed in range(5):
        draws = [
            sample_clip(40, 8, 13.7, np.random.default_rng(generator_seed), frame_times)
            for frame_times in (None, times)
        ]
        assert draws[0].tolist() == draws[1].tolist()
    assert sample_clips(40, 3, 8, 13.7).tolist() == sample_clips(40, 3, 8, 13.7, times).tolist()


def test_clips_of_uneven_frames_last_as_long_as_asked_for():
    frames_per_sec = 39 / 10
    for seed in range(50):
        clip = sample_clip(40, 9, 2 * frames_per_sec, np.random.default_rng(seed), UNEVEN)
        times = UNEVEN[clip]
        assert len(clip) == 9 and (np.diff(clip) >= 0).all()
        assert times[-1] - times[0] <= 2
        assert (np.diff(times) <= 1).all()
    first, _, last = UNEVEN[sample_clips(40, 3, 9, 2 * frames_per_sec, UNEVEN)]
    assert first[0] == 0 and last[-1] == 10


@pytest.mark.parametrize("times", [np.zeros(1), np.zeros(3), np.array([0, 0, 5.0])])
def test_odd_times(times):
    assert sample_clip(len(times), 4, 2.0, np.random.default_rng(0), times).shape == (4,)
