"""Frame numbers: what must hold for any video, numbers worked out by hand, and those of the original."""

import numpy as np
import pytest
from safetensors.torch import load_file

from vtn_hf.frame_sampling_vtn import sample_pyslowfast_full_video, sample_uniform


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


STEADY = np.arange(40) / 30
# Thirty frames in the first second, then one per second.
UNEVEN = np.array([number / 30 for number in range(30)] + list(range(1, 11)), dtype=float)


@pytest.mark.parametrize("jitter", [0, 0.001, 0.015])
def test_a_constant_rate_needs_no_times(jitter):
    """Times that are rounded to ticks are those of a constant rate, too."""
    times = STEADY + np.random.default_rng(0).uniform(-jitter, jitter, 40)
    times -= times[0]
    assert sample_uniform(40, 7).tolist() == sample_uniform(40, 7, times).tolist()


def test_uneven_frames_are_spread_in_time():
    assert UNEVEN[sample_uniform(40, 11, UNEVEN)].tolist() == list(range(11))
    # None twice, and the first second is not taken as a whole.
    taken = UNEVEN[sample_uniform(40, 41, UNEVEN)]
    np.testing.assert_allclose(taken, [0, 0.25, 0.5, 0.75, *range(1, 11)], atol=1 / 59)
    assert sample_uniform(40, None, UNEVEN).tolist() == list(range(40))


@pytest.mark.parametrize("times", [np.zeros(1), np.zeros(3), np.array([0, 0, 5.0])])
def test_odd_times(times):
    assert set(sample_uniform(len(times), 2, times)) <= set(range(len(times)))
