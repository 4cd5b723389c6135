"""Encoded videos of ten seconds and more whose class is decided by a moment, or by the order of two moments far apart.

Small shapes move throughout as distractors. Besides, a large shape appears for 12 to 20 of the 256 to 320 frames, and
so does another one, somewhere else and of the same colour; a class is a pair of shapes in their order. In the
collection `moment` the second shape follows directly on the first, at a random time; in the collection `order` it
comes at least 128 frames later. The classes come in pairs that hold the same shapes in opposite order, so neither one
frame, nor all frames in unknown order, tells them apart. For `order`, a clip of 128 frames holds one of the shapes at
most; what is left to it is a guess from where in the clip that shape is, as no clip reaches beyond its video. A folder
is written by

    PYTHONPATH=examples python -m drawn_videos.event_videos moment ROOT --num_train 600 --num_val 200 --seed 0
"""

import argparse
import json
import os
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .drawing import SHAPES, draw_canvas, make_generator, paint, place, to_pictures, write_videos


# What stands between the two shapes in the name of a class.
_LINKS = {"moment": ", then ", "order": ", later "}
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    task: tuple(sorted(link.join(pair) for pair in permutations(SHAPES, 2))) for task, link in _LINKS.items()
}
_FRAME_RATE = 25
_PICTURE_SIDE = 64
_NUM_DISTRACTORS = 3
_MIN_GAP = 128


class Schedule(NamedTuple):
    """When what happens in a video, in frames."""

    num_frames: int
    events: tuple[range, range]


def draw_event_video(task: str, class_name: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Draws one random video of a class.

    Args:
        task: `"moment"` or `"order"`.
        class_name: One of `CLASS_NAMES[task]`.
        rng: The source of everything random in the video.

    Returns:
        The frames, uint8 RGB of shape (256 to 320, 64, 64, 3), and the frame rate, 25 frames per second.

    Raises:
        ValueError: If `class_name` is not one of the task.
    """
    if class_name not in CLASS_NAMES[task]:
        raise ValueError(f"Unknown class {class_name!r} of {task!r}; the classes are {'; '.join(CLASS_NAMES[task])}.")
    schedule = _draw_schedule(task, rng)
    frames, colour = draw_canvas(schedule.num_frames, _PICTURE_SIDE, _PICTURE_SIDE, rng)
    for _ in range(_NUM_DISTRACTORS):
        path = _draw_distractor(schedule.num_frames, rng)
        paint(frames, path, rng.choice(SHAPES), rng.uniform(0, 2 * np.pi), rng.uniform(0, 255, size=3))
    for event, shape in zip(schedule.events, class_name.split(_LINKS[task]), strict=True):
        path = place(np.full((len(event), 3), [0, 0, rng.uniform(0.2, 0.28)]), rng)
        paint(frames[event.start : event.stop], path, shape, rng.uniform(0, 2 * np.pi), colour)
    return to_pictures(frames, rng), _FRAME_RATE


def write_event_videos(
    task: str, root: str | os.PathLike, num_train: int, num_val: int, seed: int = 0, num_workers: int | None = None
) -> Path:
    """
    Writes a folder of the videos of a task; the other arguments, result and errors are those of
    [`drawn_videos.drawing.write_videos`].
    """
    draw = partial(draw_event_video, task)
    return write_videos(root, draw, CLASS_NAMES[task], f"{task}_videos.json", num_train, num_val, seed, num_workers)


def read_schedule(path: str | os.PathLike) -> Schedule:
    """Says when the events of a video are, which the video's place in its collection decides.

    Args:
        path: A video in a folder that `write_event_videos` wrote, ROOT/{train,val}/<class name>/<split>_<index>.mp4.

    Raises:
        FileNotFoundError: If the folder is none of those.
    """
    path = Path(path)
    split, index = path.stem.split("_")
    for task in CLASS_NAMES:
        record = path.parents[2] / f"{task}_videos.json"
        if record.exists():
            return _draw_schedule(task, make_generator(json.loads(record.read_text())["seed"], split, int(index)))
    raise FileNotFoundError(f"{path.parents[2]} holds no event videos.")


def _draw_schedule(task: str, rng: np.random.Generator) -> Schedule:
    """Draws the length and the events of a video, before anything else that is random in it."""
    num_frames = int(rng.integers(256, 321))
    lengths = rng.integers(12, 21, size=2).tolist()
    gap = _MIN_GAP if task == "order" else 0
    first = int(rng.integers(0, num_frames - sum(lengths) - gap + 1))
    second = first + lengths[0]
    if task == "order":
        second = int(rng.integers(second + gap, num_frames - lengths[1] + 1))
    return Schedule(num_frames, (range(first, first + lengths[0]), range(second, second + lengths[1])))


def _draw_distractor(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the path of a small shape that swings over the picture throughout, (frames, 3) as `paint` takes it."""
    time = np.linspace(0, 2 * np.pi, num_frames)[:, None]
    # One to six swings in each direction of the picture.
    position = 0.5 + 0.4 * np.sin(rng.uniform(1, 6, size=2) * time + rng.uniform(0, 2 * np.pi, size=2))
    return np.hstack([position, np.full((num_frames, 1), rng.uniform(0.04, 0.07))])


def main() -> None:
    parser = argparse.ArgumentParser(description="Write long videos whose class is decided by moments.")
    parser.add_argument("task", choices=CLASS_NAMES, help="what decides the class")
    parser.add_argument("root", type=Path, help="folder to write")
    parser.add_argument("--num_train", type=int, default=600, help="training videos over all classes")
    parser.add_argument("--num_val", type=int, default=200, help="validation videos over all classes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set")
    write_event_videos(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
