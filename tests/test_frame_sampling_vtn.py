"""Frame numbers: what must hold for any video, numbers worked out by hand, and those of the original."""

import numpy as np
import pytest
from safetensors.torch import load_file

from vtn_hf.frame_sampling_vtn import sample_clip, sample_clips, sample_pyslowfast_full_video, sample_uniform


LENGTHS = [1, 2, 3, 7, 16, 31, 250, 300, 9001]
NUMS_FRAMES = [1, 2, 3, 8, 16, 250, 300]


@pytest.mark.parametrize(
    ("total", "num_frames", "expected"),
    [
        (10, 4, [0, 3, 6, 9]),
        (10, 2, [0, 9]),
        (10, 1, [0]),
        (1, 1, [0]),
        (1, 8, [0]),
        (6, 5, [0, 1, 2, 3, 5]),
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 250, [0, 1, 2]),
        (4, None, [0, 1, 2, 3]),
    ],
)
def test_uniform(total, num_frames, expected):
    assert sample_uniform(total, num_frames).tolist() == expected


@pytest.mark.parametrize("num_frames", NUMS_FRAMES)
@pytest.mark.parametrize("total", LENGTHS)
def test_uniform_spreads_over_the_whole_video(total, num_frames):
    indices = sample_uniform(total, num_frames)
    assert indices.dtype == np.int64
    assert len(indices) == min(num_frames, total)
    assert indices[0] == 0
    assert (np.diff(indices) > 0).all()
    if num_frames > 1:
        assert indices[-1] == total - 1
    if 1 < num_frames <= total:
        even = np.arange(num_frames) * (total - 1) / (num_frames - 1)
        assert abs(indices - even).max() < 1 + 1e-6


def test_uniform_all_frames_of_a_long_video():
    assert sample_uniform(1000).tolist() == list(range(1000))


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
    ("total", "fps", "num_frames", "target_fps", "expected"),
    [
        # Two seconds at 2 frames per second of a video with 4 frames per second: frames 0 to 7.
        (100, 4, 4, 2, [0, 2, 4, 7]),
        # Of a video that has only six of those eight frames: 0 to 6, which is one too many, and 6 becomes 5.
        (6, 4, 4, 2, [0, 2, 4, 5]),
        (2, 4, 6, 2, [0, 0, 0, 1, 1, 1]),
        (1, 30, 3, 25, [0, 0, 0]),
        (100, 4, 1, 2, [0]),
    ],
)
def test_pyslowfast_full_video(total, fps, num_frames, target_fps, expected):
    assert sample_pyslowfast_full_video(total, fps, num_frames, target_fps).tolist() == expected


@pytest.mark.parametrize(
    ("clip", "total", "fps"), [("arm_wrestling_k400.mp4", 280, 28), ("mm_test.mp4", 300, 30), ("mm_part.mp4", 32, 30)]
)
def test_pyslowfast_full_video_equals_the_original(reference_dir, clip, total, fps):
    expected = load_file(reference_dir / "preprocess.safetensors")[f"{clip}.frame_index"]
    assert sample_pyslowfast_full_video(total, fps).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("sample", "arguments", "message"),
    [
        (sample_uniform, (0, 4), "`total_num_frames` must be positive, got 0"),
        (sample_uniform, (-3, None), "`total_num_frames` must be positive, got -3"),
        (sample_uniform, (10, 0), "`num_frames` must be positive, got 0"),
        (sample_uniform, (10, -2), "`num_frames` must be positive, got -2"),
        (sample_clip, (0, 4), "`total_num_frames` must be positive, got 0"),
        (sample_clip, (10, 0), "`num_frames` must be positive, got 0"),
        (sample_clip, (10, 4, 0), "`span` must be positive, got 0"),
        (sample_clip, (10, 4, -1.5), "`span` must be positive, got -1.5"),
        (sample_clip, (10, 4, float("nan")), "`span` must be positive, got nan"),
        (sample_pyslowfast_full_video, (0, 30), "`total_num_frames` must be positive, got 0"),
        (sample_pyslowfast_full_video, (10, 0), "`fps` must be positive, got 0"),
        (sample_pyslowfast_full_video, (10, float("nan")), "`fps` must be positive, got nan"),
        (sample_pyslowfast_full_video, (10, 30, 0), "`num_frames` must be positive, got 0"),
        (sample_pyslowfast_full_video, (10, 30, 250, -1), "`target_fps` must be positive, got -1"),
    ],
)
def test_numbers_that_are_not_positive(sample, arguments, message):
    with pytest.raises(ValueError, match=message):
        sample(*arguments)


def test_clips_are_spread_from_the_start_to_the_end():
    assert sample_clips(40, 3, 4, 10).tolist() == [[0, 3, 6, 9], [15, 18, 21, 24], [30, 33, 36, 39]]
    np.testing.assert_array_equal(sample_clips(40, 1, 4, 10)[0], sample_clip(40, 4, 10))
    assert sample_clips(4, 2, 4, 10).tolist() == [[0, 3, 3, 3]] * 2
    with pytest.raises(ValueError, match="`num_clips` must be positive, got 0"):
        sample_clips(40, 0, 4, 10)


STEADY = np.arange(40) / 30
# Thirty frames in the first second, then one per second.
UNEVEN = np.array([number / 30 for number in range(30)] + list(range(1, 11)), dtype=float)


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
    assert sample_uniform(40, 7).tolist() == sample_uniform(40, 7, times).tolist()
    assert sample_clips(40, 3, 8, 13.7).tolist() == sample_clips(40, 3, 8, 13.7, times).tolist()


def test_uneven_frames_are_spread_in_time():
    assert UNEVEN[sample_uniform(40, 11, UNEVEN)].tolist() == list(range(11))
    # None twice, and the first second is not taken as a whole.
    taken = UNEVEN[sample_uniform(40, 41, UNEVEN)]
    np.testing.assert_allclose(taken, [0, 0.25, 0.5, 0.75, *range(1, 11)], atol=1 / 59)
    assert sample_uniform(40, None, UNEVEN).tolist() == list(range(40))


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
    assert set(sample_uniform(len(times), 2, times)) <= set(range(len(times)))
    assert sample_clip(len(times), 4, 2.0, np.random.default_rng(0), times).shape == (4,)
