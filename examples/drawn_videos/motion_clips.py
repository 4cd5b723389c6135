"""Encoded videos whose classes differ only in the direction of time.

The ten classes come in five pairs, and one class of a pair is the other played backwards: neither one frame of a clip
nor all its frames in unknown order can tell the two apart, so a model that ignores time gets at most half of the clips
right. Mirroring swaps some classes as well: train without horizontal flips. The folder is written by

    PYTHONPATH=examples python -m drawn_videos.motion_clips ROOT --num_train 2000 --num_val 600 --seed 0
"""

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np

from .drawing import SHAPES, draw_canvas, paint, place, to_pictures, write_videos


_FRAME_RATES = (10, 12, 15, 20, 24, 25, 30)
_PICTURE_SIDES = (64, 72, 80, 96)
_NUM_FRAMES = (24, 48)

# Only the first class of a pair is ever drawn; the second is the first played backwards.
_PAIRS = {
    "moving right": "moving left",
    "moving down": "moving up",
    "orbiting clockwise": "orbiting anticlockwise",
    "growing": "shrinking",
    "circle before square": "square before circle",
    "appearing": "disappearing",
    "moving apart": "moving together",
}


def _name_pairs(*forward: str) -> set[str]:
    """The classes of pairs, by the first of each."""
    return {*forward, *(_PAIRS[name] for name in forward)}


TIME_REVERSED: dict[str, str] = _PAIRS | {backward: forward for forward, backward in _PAIRS.items()}
CLASS_NAMES: tuple[str, ...] = tuple(sorted(TIME_REVERSED.keys() - _name_pairs("appearing", "moving apart")))
# What 32 pixels and a minute of training suffice for: in so small a picture a circle looks like a square.
SMALL_CLASS_NAMES: tuple[str, ...] = tuple(
    sorted(TIME_REVERSED.keys() - _name_pairs("orbiting clockwise", "circle before square"))
)


def draw_clip(
    class_name: str,
    rng: np.random.Generator,
    sides: tuple[int, ...] = _PICTURE_SIDES,
    num_frames: tuple[int, int] = _NUM_FRAMES,
) -> tuple[np.ndarray, int]:
    """Draws one random clip of a class.

    With generators in the same state, a class and its partner in `TIME_REVERSED` get the same frames, in opposite
    orders.

    Args:
        class_name: One of `CLASS_NAMES` or `SMALL_CLASS_NAMES`.
        rng: The source of everything random in the clip.
        sides: Pixels that height and width are drawn from, even numbers.
        num_frames: The least and the greatest number of frames.

    Returns:
        The frames, uint8 RGB of shape (frames, height, width, 3); and the frame rate, 10 to 30 frames per second.

    Raises:
        ValueError: If `class_name` is not one of `CLASS_NAMES`.
    """
    if class_name not in TIME_REVERSED:
        raise ValueError(f"Unknown class {class_name!r}; the classes are {', '.join(sorted(TIME_REVERSED))}.")
    frame_rate = int(rng.choice(_FRAME_RATES))
    if class_name in _PAIRS:
        frames = _draw_scene(class_name, rng, sides, num_frames)
    else:
        frames = np.ascontiguousarray(_draw_scene(TIME_REVERSED[class_name], rng, sides, num_frames)[::-1])
    return frames, frame_rate


def write_motion_clips(
    root: str | os.PathLike, num_train: int, num_val: int, seed: int = 0, num_workers: int | None = None
) -> Path:
    """Writes a folder of clips: arguments, result and errors as of [`drawn_videos.drawing.write_videos`]."""
    return write_videos(root, draw_clip, CLASS_NAMES, "motion_clips.json", num_train, num_val, seed, num_workers)


def write_small_motion_clips(
    root: str | os.PathLike, num_train: int, num_val: int, seed: int = 0, num_workers: int | None = None
) -> Path:
    """As [`write_motion_clips`], of clips of 12 to 16 frames of 32 x 32 pixels, for those who have two CPU cores."""
    draw = partial(draw_clip, sides=(32,), num_frames=(12, 16))
    names = SMALL_CLASS_NAMES
    return write_videos(root, draw, names, "small_motion_clips.json", num_train, num_val, seed, num_workers)


def _draw_scene(
    forward_class: str, rng: np.random.Generator, sides: tuple[int, ...], limits: tuple[int, int]
) -> np.ndarray:
    """Draws the frames of the first class of a pair, uint8 (frames, height, width, 3)."""
    num_frames = int(rng.integers(*limits, endpoint=True))
    height, width = rng.choice(sides, size=2)
    frames, colour = draw_canvas(num_frames, height, width, rng)
    if rng.random() < 0.5:
        distractor = place(np.full((num_frames, 3), [0, 0, rng.uniform(0.05, 0.08)]), rng)
        paint(frames, distractor, rng.choice(SHAPES), rng.uniform(0, 2 * np.pi), rng.uniform(0, 255, size=3))
    paint_motion(frames, forward_class, colour, rng)
    return to_pictures(frames, rng)


def paint_motion(frames: np.ndarray, class_name: str, colour: np.ndarray, rng: np.random.Generator) -> None:
    """Paints an object that moves as one of the classes says into frames (frames, 3, height, width), in place."""
    if class_name not in _PAIRS:
        frames, class_name = frames[::-1], TIME_REVERSED[class_name]
    motion = _draw_motion(class_name, len(frames), rng)
    path = place(motion, rng)
    shape = rng.choice(SHAPES)
    first, second = ("circle", "square") if class_name == "circle before square" else (shape, shape)
    swap = int(len(frames) * rng.uniform(0.25, 0.75))
    angle = rng.uniform(0, 2 * np.pi)
    if class_name != "appearing":
        paint(frames[:swap], path[:swap], first, angle, colour)
    paint(frames[swap:], path[swap:], second, angle, colour)
    if class_name == "moving apart":
        # Another one, which goes the other way.
        paint(frames, path - 2 * motion * [1, 1, 0], shape, angle, colour)


def _draw_motion(forward_class: str, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draws what defines a class: each frame's offset to the right, offset downwards and radius, (frames, 3).

    Offsets are in widths and heights of the picture, radii in its shorter sides.
    """
    # A speed that rises and falls, as likely to be high at either end.
    speeds = 1 + rng.uniform(0, 0.6) * np.cos(np.linspace(0, 2 * np.pi, num_frames - 1) + rng.uniform(0, 2 * np.pi))
    progress = np.append(0, speeds.cumsum() / speeds.sum())
    reach = rng.uniform(0.4, 0.6)
    motion = np.zeros((num_frames, 3))
    motion[:, 2] = rng.uniform(0.1, 0.16)
    if forward_class == "moving right":
        motion[:, 0] = reach * (progress - 0.5)
    elif forward_class == "moving apart":
        # From where they touch.
        motion[:, 2] *= 0.7
        motion[:, 0] = motion[:, 2] + 0.4 * reach * progress
    elif forward_class == "moving down":
        motion[:, 1] = reach * (progress - 0.5)
    elif forward_class == "orbiting clockwise":
        # Vertical positions count downwards, so a growing angle turns clockwise on the screen.
        angles = 2 * np.pi * (rng.random() + rng.uniform(0.75, 1.5) * progress)
        motion[:, :2] = reach / 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif forward_class == "growing":
        smallest, largest = rng.uniform(0.06, 0.1), rng.uniform(0.28, 0.4)
        motion[:, 2] = smallest + (largest - smallest) * progress
    elif forward_class == "circle before square":
        # At 64 pixels only a large circle looks unlike a square of its area.
        motion[:, 2] = rng.uniform(0.2, 0.28)
    return motion


def main() -> None:
    parser = argparse.ArgumentParser(description="Write videos whose classes differ only in the direction of time.")
    parser.add_argument("root", type=Path, help="folder to write")
    parser.add_argument("--num_train", type=int, default=2000, help="training clips over all classes")
    parser.add_argument("--num_val", type=int, default=600, help="validation clips over all classes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set")
    write_motion_clips(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
