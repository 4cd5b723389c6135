"""
Which frames of a video to use: pure arithmetic on frame numbers and times, no video needed.

Places in a video are counted in frames. Where the frames do not come at a constant rate, a place stands for the time
at which a constant rate would have that frame, and the frame nearest to this time is taken. `frame_times` are the
seconds at which each frame is shown; without them, the rate is constant. What is to be positive and is not raises
`ValueError`.
"""

import numpy as np


def sample_uniform(
    total_num_frames: int, num_frames: int | None = None, frame_times: np.ndarray | None = None
) -> np.ndarray:
    """
    Spreads `num_frames` frames over the whole video, the first and the last included. A video with fewer gives all of
    its frames, as does any video when this is `None`; none is taken twice, so that uneven times may give fewer.

    Returns:
        `np.ndarray` of int64: Increasing frame numbers.
    """
    check_positive(total_num_frames=total_num_frames, num_frames=1 if num_frames is None else num_frames)
    if num_frames is not None and not is_steady(frame_times):
        return np.unique(find_nearest(np.linspace(0, total_num_frames - 1, num_frames), frame_times))
    if num_frames is None or num_frames >= total_num_frames:
        return np.arange(total_num_frames)
    return np.linspace(0, total_num_frames - 1, num_frames).astype(np.int64)


def sample_pyslowfast_full_video(
    total_num_frames: int, fps: float, num_frames: int = 250, target_fps: float = 25
) -> np.ndarray:
    """
    The frames that the original sees when it evaluates on full videos: the first `num_frames / target_fps` seconds
    (10 s) spread over `num_frames` frames, with repeats where the video has fewer. `fps` is that of the video,
    `target_fps` the rate at which the original counts the lengths of clips.
    """
    check_positive(total_num_frames=total_num_frames, fps=fps, num_frames=num_frames, target_fps=target_fps)
    # In a video that is too short the original counts one frame too many, and then clips.
    end = min(num_frames / target_fps * fps - 1, total_num_frames)
    return np.clip(np.linspace(0, end, num_frames), 0, total_num_frames - 1).astype(np.int64)


def is_steady(frame_times: np.ndarray | None) -> bool:
    """Whether frames come within one frame of when a constant rate would show them, as far as is known."""
    if frame_times is None or len(frame_times) < 2:
        return True
    steady = np.linspace(0, frame_times[-1], len(frame_times))
    return bool(np.abs(frame_times - steady).max() <= steady[1])


def find_nearest(places: np.ndarray, frame_times: np.ndarray) -> np.ndarray:
    """The frames nearest to the times of places in the video; of two the earlier one."""
    seconds = places * (frame_times[-1] / (len(frame_times) - 1))
    after = np.searchsorted(frame_times, seconds).clip(1, len(frame_times) - 1)
    return after - (seconds - frame_times[after - 1] <= frame_times[after] - seconds)


def check_positive(**numbers: float):
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"`{name}` must be positive, got {number}.")
