"""
Which frames of a video to use: pure arithmetic on frame numbers and times, no video needed.

Places in a video are counted in frames. Where the frames do not come at a constant rate, a place stands for the time
at which a constant rate would have that frame, and the frame nearest to this time is taken. `frame_times` are the
seconds at which each frame is shown; without them, the rate is constant. What is to be positive and is not raises
`ValueError`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


# Ends of segments are rounded, and sound may last a little longer than the pictures.
_MAX_ROUNDING_SEC = 0.1


@dataclass(frozen=True)
class VideoSegment:
    """
    A part of a video, and a video like any other: frame numbers and seconds begin with it.

    Args:
        source: Path, URL, bytes or binary file of the whole.
        start_sec, end_sec (`float`, *optional*): The frames that are shown from `start_sec` on and before `end_sec`,
            by their own timestamps, in seconds from the first frame of the whole, rounded to milliseconds; by default
            those from its start and to its end.

    Raises:
        ValueError: If no time lies between.

    Example:

    ```python
    >>> from vtn_hf.frame_sampling_vtn import VideoSegment

    >>> video = VideoSegment("match.mp4", 61.5, 64)        # for the processor, `classify_video` and all the others

    ```"""

    source: Any
    start_sec: float | None = None
    end_sec: float | None = None

    def __post_init__(self):
        start, end = self.start_sec or 0, np.inf if self.end_sec is None else self.end_sec
        if not 0 <= start < end or self.end_sec == np.inf:
            raise ValueError(f"A segment {self.describe()} is none: seconds, and the end behind the start.")

    def describe(self) -> str:
        end = "the end" if self.end_sec is None else f"{self.end_sec} s"
        return f"from {self.start_sec or 0} s to {end}"

    def find(self, frame_times: np.ndarray, duration: float) -> slice:
        """
        Its frames, by the seconds `(frames,)` at which each frame of the whole is shown; where none begins in its
        time, the one that is shown then. `duration` is that of the whole.

        Raises:
            ValueError: If the whole ends before; a tenth of a second is taken for rounding.
        """
        whole_end = max(duration, float(frame_times[-1]))
        if (self.start_sec or 0) >= whole_end or (self.end_sec or 0) > whole_end + _MAX_ROUNDING_SEC:
            raise ValueError(f"the segment {self.describe()} goes beyond the end, which is at {whole_end:.3f} s")
        milliseconds = np.round(frame_times * 1000)
        start = round(1000 * (self.start_sec or 0))
        first, stop = int(np.searchsorted(milliseconds, start)), len(frame_times)
        if self.end_sec is not None:
            stop = int(np.searchsorted(milliseconds, round(1000 * self.end_sec)))
        if first >= stop:
            first = max(int(np.searchsorted(milliseconds, start, side="right")) - 1, 0)
        return slice(first, max(stop, first + 1))


def sample_uniform(
    total_num_frames: int, num_frames: int | None = None, frame_times: np.ndarray | None = None
) -> np.ndarray:
    """
    Spreads `num_frames` frames over the whole video, the first and the last included. A video with fewer gives all of
    its frames, as does any video when this is `None`; none is taken twice, so that uneven times may give fewer.

    Returns:
        `np.ndarray` of int64: Increasing frame numbers.
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
    Spreads `num_frames` frames over a clip of `span` frames (default: the whole video), for training. `generator`
    draws where it starts; without one it is the central one.

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
