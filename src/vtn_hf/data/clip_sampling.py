"""Which frames of a video make a clip; times and places as in [`vtn_hf.frame_sampling_vtn`]."""

import numpy as np

from ..frame_sampling_vtn import check_positive, find_nearest, is_steady


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
    check_positive(total_num_frames=total_num_frames, num_frames=num_frames, span=span)
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
    check_positive(total_num_frames=total_num_frames, num_clips=num_clips, num_frames=num_frames, span=span)
    slack = max(total_num_frames - span, 0)
    starts = [slack / 2] if num_clips == 1 else np.linspace(0, slack, num_clips)
    return np.stack([_spread_over_clip(start, span, num_frames, total_num_frames, frame_times) for start in starts])


def _spread_over_clip(
    start: float, span: float, num_frames: int, total_num_frames: int, frame_times: np.ndarray | None
) -> np.ndarray:
    steps = np.linspace(0, max(span - 1, 0), num_frames)
    if not is_steady(frame_times):
        return find_nearest(np.clip(start + steps, 0, total_num_frames - 1), frame_times)
    # The original's rule (PySlowFast's decoder): it decodes from the first whole frame on, and counts from there, so
    # that the distances of the frames do not depend on the start.
    return np.clip(np.ceil(start) + steps.astype(np.int64), 0, total_num_frames - 1).astype(np.int64)
