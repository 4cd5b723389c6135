"""
Which frames of a video to use: pure arithmetic on frame numbers and times, no video needed.

Places in a video are counted in frames. Where the frames do not come at a constant rate, a place stands for the time
at which a constant rate would have that frame, and the frame nearest to this time is taken.
"""

import numpy as np


def sample_uniform(
    total_num_frames: int, num_frames: int | None = None, frame_times: np.ndarray | None = None
) -> np.ndarray:
    """
    Spreads `num_frames` frames over the whole video, the first and the last included.

    Args:
        total_num_frames (`int`): Frames in the video.
        num_frames (`int`, *optional*): Frames to take. A video with fewer gives all of its frames, none twice, as does
            any video when this is `None`.
        frame_times (`np.ndarray` of shape `(total_num_frames,)`, *optional*): Seconds at which each frame is shown.
            With them the frames are spread evenly in time, and may be fewer, as none is taken twice.

    Returns:
        `np.ndarray` of int64: Increasing frame numbers.

    Raises:
        ValueError: If a number is not positive.
    """
    _check_positive(total_num_frames=total_num_frames, num_frames=1 if num_frames is None else num_frames)
    if num_frames is not None and not is_steady(frame_times):
        return np.unique(_find_nearest(np.linspace(0, total_num_frames - 1, num_frames), frame_times))
    if num_frames is None or num_frames >= total_num_frames:
        return np.arange(total_num_frames)
    return np.linspace(0, total_num_frames - 1, num_frames).astype(np.int64)


def sample_clip(
    total_num_frames: int,
    num_frames: int,
    span: float | None = None,
    generator: np.random.Generator | None = None,
    frame_times: np.ndarray | None = None,
) -> np.ndarray:
    """
    Spreads `num_frames` frames over a clip of the video that starts anywhere, for training.

    Args:
        total_num_frames, num_frames, frame_times: As in [`sample_uniform`].
        span (`float`, *optional*): Length of the clip, in frames of the video. Defaults to the whole video.
        generator (`np.random.Generator`, *optional*): Draws the start of the clip; without one, the clip is the
            central one.

    Returns:
        `np.ndarray` of int64: `num_frames` frame numbers, never decreasing; a clip with fewer frames repeats some, so
        that clips of a batch are of equal length.
    """
    span = total_num_frames if span is None else span
    _check_positive(total_num_frames=total_num_frames, num_frames=num_frames, span=span)
    slack = max(total_num_frames - span, 0)
    start = slack / 2 if generator is None else generator.uniform(0, slack)
    return _spread_over_clip(start, span, num_frames, total_num_frames, frame_times)


def sample_clips(
    total_num_frames: int, num_clips: int, num_frames: int, span: float, frame_times: np.ndarray | None = None
) -> np.ndarray:
    """
    Spreads clips over the video, the first at its start and the last at its end; a single one is in the middle.

    Returns:
        `np.ndarray` of int64 and shape `(num_clips, num_frames)`: Frame numbers, as in [`sample_clip`].
    """
    _check_positive(total_num_frames=total_num_frames, num_clips=num_clips, num_frames=num_frames, span=span)
    slack = max(total_num_frames - span, 0)
    starts = [slack / 2] if num_clips == 1 else np.linspace(0, slack, num_clips)
    return np.stack([_spread_over_clip(start, span, num_frames, total_num_frames, frame_times) for start in starts])


def sample_pyslowfast_full_video(
    total_num_frames: int, fps: float, num_frames: int = 250, target_fps: float = 25
) -> np.ndarray:
    """
    The frames that the original sees when it evaluates on full videos: the first `num_frames / target_fps` seconds
    (10 s) spread over `num_frames` frames, with repeats where the video has fewer. `fps` is that of the video,
    `target_fps` the rate at which the original counts the lengths of clips.
    """
    _check_positive(total_num_frames=total_num_frames, fps=fps, num_frames=num_frames, target_fps=target_fps)
    # In a video that is too short the original counts one frame too many, and then clips.
    end = min(num_frames / target_fps * fps - 1, total_num_frames)
    return np.clip(np.linspace(0, end, num_frames), 0, total_num_frames - 1).astype(np.int64)


def is_steady(frame_times: np.ndarray | None) -> bool:
    """Whether frames come within one frame of when a constant rate would show them, as far as is known."""
    if frame_times is None or len(frame_times) < 2:
        return True
    steady = np.linspace(0, frame_times[-1], len(frame_times))
    return bool(np.abs(frame_times - steady).max() <= steady[1])


def _find_nearest(places: np.ndarray, frame_times: np.ndarray) -> np.ndarray:
    """The frames nearest to the times of places in the video; of two the earlier one."""
    seconds = places * (frame_times[-1] / (len(frame_times) - 1))
    after = np.searchsorted(frame_times, seconds).clip(1, len(frame_times) - 1)
    return after - (seconds - frame_times[after - 1] <= frame_times[after] - seconds)


def _spread_over_clip(
    start: float, span: float, num_frames: int, total_num_frames: int, frame_times: np.ndarray | None
) -> np.ndarray:
    steps = np.linspace(0, max(span - 1, 0), num_frames)
    if not is_steady(frame_times):
        return _find_nearest(np.clip(start + steps, 0, total_num_frames - 1), frame_times)
    # The original's rule (PySlowFast's decoder): it decodes from the first whole frame on, and counts from there, so
    # that the distances of the frames do not depend on the start.
    return np.clip(np.ceil(start) + steps.astype(np.int64), 0, total_num_frames - 1).astype(np.int64)


def _check_positive(**numbers: float):
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"`{name}` must be positive, got {number}.")
