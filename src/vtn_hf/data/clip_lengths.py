"""How many frames a training clip has: always as many, or another number each time."""

import numpy as np


# A number, or the least and the greatest of which one is drawn for each clip.
ClipLength = int | tuple[int, int]


def check_length(num_frames: ClipLength):
    """Raises `ValueError` unless it is a number of frames above 0, or two of them that rise."""
    least, greatest = num_frames if isinstance(num_frames, tuple) else (num_frames, num_frames)
    if not 1 <= least <= greatest:
        raise ValueError(f"The frames of a clip must be a number above 0, or two that rise, got {num_frames}.")


def draw_length(num_frames: ClipLength, generator: np.random.Generator) -> int:
    """The number, or one between the two: twice as many frames are drawn as often as half as many."""
    if not isinstance(num_frames, tuple):
        return num_frames
    least, greatest = num_frames
    return int(np.exp(generator.uniform(np.log(least), np.log(greatest + 1))))
