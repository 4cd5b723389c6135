"""Encoded videos whose classes differ only in the direction of time.

Owns how the clips are drawn and the folder they are written to. The ten classes come in five pairs, and one class of a
pair is the other played backwards: neither one frame of a clip nor all its frames in unknown order can tell the two
apart, so a model that ignores time gets at most half of the clips right. Mirroring swaps some classes as well: train
without horizontal flips. The folder is laid out like Kinetics, ROOT/{train,val}/<class name>/<clip id>.mp4, and is
written by

    python -m vtn_hf.data.motion_clips ROOT --num_train 2000 --num_val 600 --seed 0
"""

import argparse
import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial, reduce
from pathlib import Path

import numpy as np
from tqdm import tqdm


_SPLITS = ("train", "val")
_RECORD_NAME = "motion_clips.json"
_FRAME_RATES = (10, 12, 15, 20, 24, 25, 30)
_PICTURE_SIDES = (64, 72, 80, 96)
_POLYGON_SIDES = {"triangle": 3, "square": 4}
_SHAPES = ("circle", *_POLYGON_SIDES)

# Only the first class of a pair is ever drawn; the second is the first played backwards.
_PAIRS = {
    "moving right": "moving left",
    "moving down": "moving up",
    "orbiting clockwise": "orbiting anticlockwise",
    "growing": "shrinking",
    "circle before square": "square before circle",
}
TIME_REVERSED: dict[str, str] = _PAIRS | {backward: forward for forward, backward in _PAIRS.items()}
CLASS_NAMES: tuple[str, ...] = tuple(sorted(TIME_REVERSED))


def draw_clip(class_name: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Draws one random clip of a class.

    With generators in the same state, a class and its partner in `TIME_REVERSED` get the same frames, in opposite
    orders.

    Args:
        class_name: One of `CLASS_NAMES`.
        rng: The source of everything random in the clip.

    Returns:
        The frames, uint8 RGB of shape (frames, height, width, 3), 24 to 48 of them with even sides of 64 to 96 pixels;
        and the frame rate, 10 to 30 frames per second.

    Raises:
        ValueError: If `class_name` is not one of `CLASS_NAMES`.
    """
    if class_name not in TIME_REVERSED:
        raise ValueError(f"Unknown class {class_name!r}; the classes are {', '.join(CLASS_NAMES)}.")
    frame_rate = int(rng.choice(_FRAME_RATES))
    if class_name in _PAIRS:
        frames = _draw_scene(class_name, rng)
    else:
        frames = _draw_scene(TIME_REVERSED[class_name], rng)[::-1]
    # (frames, 3, height, width) -> (frames, height, width, 3)
    return np.ascontiguousarray(frames.transpose(0, 2, 3, 1)), frame_rate


def write_motion_clips(
    root: str | os.PathLike, num_train: int, num_val: int, seed: int = 0, num_workers: int | None = None
) -> Path:
    """Writes a Kinetics-style folder of clips, equally many (within one) of every class.

    A clip depends on the seed, its split and its index in the split, and on nothing else. A folder that a call with
    the same parameters completed is left as it is; one that such a call left unfinished is written again.

    Args:
        root: The folder to write: a new or empty one, or one written with the same parameters.
        num_train: Number of training clips over all classes.
        num_val: Number of validation clips over all classes.
        seed: Non-negative seed of the whole set.
        num_workers: Number of processes; default: one per CPU.

    Returns:
        `root` as a path.

    Raises:
        ValueError: If `num_train` is not positive, **or** if `num_val` or `seed` is negative.
        FileExistsError: If `root` holds anything else than clips written with the same parameters.
    """
    for name, value, least in (("num_train", num_train, 1), ("num_val", num_val, 0), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    root = Path(root)
    parameters = {"num_train": num_train, "num_val": num_val, "seed": seed}
    if _is_complete(root, parameters):
        return root
    for split in _SPLITS:
        for class_name in CLASS_NAMES:
            (root / split / class_name).mkdir(parents=True, exist_ok=True)
    _write_record(root, parameters, complete=False)
    splits = ["train"] * num_train + ["val"] * num_val
    indices = [*range(num_train), *range(num_val)]
    with ProcessPoolExecutor(num_workers) as pool:
        written = pool.map(partial(_write_clip, root, seed), splits, indices, chunksize=8)
        for _ in tqdm(written, total=len(splits), unit="clip"):
            pass
    _write_record(root, parameters, complete=True)
    return root


def _is_complete(root: Path, parameters: dict[str, int]) -> bool:
    """Tells whether the set is there already, and refuses a folder that holds anything else."""
    record_path = root / _RECORD_NAME
    if record_path.exists():
        record = json.loads(record_path.read_text())
        complete = record.pop("complete")
        if record != parameters:
            raise FileExistsError(f"{root} holds motion clips written with {record}, not with {parameters}.")
        return complete
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty and has no {_RECORD_NAME}: it was not written by this function.")
    return False


def _write_record(root: Path, parameters: dict[str, int], complete: bool) -> None:
    (root / _RECORD_NAME).write_text(json.dumps({**parameters, "complete": complete}) + "\n")


def _write_clip(root: Path, seed: int, split: str, index: int) -> None:
    class_name = CLASS_NAMES[index % len(CLASS_NAMES)]
    frames, frame_rate = draw_clip(class_name, np.random.default_rng([seed, _SPLITS.index(split), index]))
    _encode(root / split / class_name / f"{split}_{index:06d}.mp4", frames, frame_rate)


def _encode(path: Path, frames: np.ndarray, frame_rate: int) -> None:
    """Writes an mp4 file in which every frame is coded alone and with the same quantiser.

    Encoding then commutes with playing backwards, pixel for pixel: neither prediction from earlier frames nor rate
    control leaves a trace of the direction of time.
    """
    import av

    # This takes 52 kB and 6 ms a clip; predicted frames (crf 23) took 10 to 40 kB, no less time, and did not commute.
    options = {"preset": "ultrafast", "qp": "24", "g": "1"}
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=frame_rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _draw_scene(forward_class: str, rng: np.random.Generator) -> np.ndarray:
    """Draws the frames of the first class of a pair, uint8 (frames, 3, height, width)."""
    num_frames = int(rng.integers(24, 49))
    height, width = rng.choice(_PICTURE_SIDES, size=2)
    colour, background = _draw_colours(rng)
    tint = rng.uniform(-25, 25, size=(3, 1, 1))
    background = background[:, None, None] + tint * _draw_pattern(height, width, rng)
    frames = np.tile(background.astype(np.float32), (num_frames, 1, 1, 1))
    if rng.random() < 0.5:
        distractor = _place(np.full((num_frames, 3), [0, 0, rng.uniform(0.05, 0.08)]), rng)
        _paint(frames, distractor, rng.choice(_SHAPES), rng.uniform(0, 2 * np.pi), rng.uniform(0, 255, size=3))
    path = _place(_draw_motion(forward_class, num_frames, rng), rng)
    shape = rng.choice(_SHAPES)
    first, second = ("circle", "square") if forward_class == "circle before square" else (shape, shape)
    swap = int(num_frames * rng.uniform(0.25, 0.75))
    angle = rng.uniform(0, 2 * np.pi)
    _paint(frames[:swap], path[:swap], first, angle, colour)
    _paint(frames[swap:], path[swap:], second, angle, colour)
    # Grey noise: the encoder halves the resolution of colour, which would blur coloured noise away.
    frames += rng.uniform(2, 6) * rng.standard_normal((num_frames, 1, height, width), dtype=np.float32)
    return frames.round().clip(0, 255).astype(np.uint8)


def _draw_colours(rng: np.random.Generator) -> np.ndarray:
    """Draws two RGB colours of clearly different brightness, (2, 3)."""
    while True:
        colours = rng.uniform(20, 235, size=(2, 3))
        if abs(np.diff(colours @ [0.299, 0.587, 0.114])) > 90:
            return colours


def _draw_pattern(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a flat, shaded, chequered or wavy texture, (height, width) in -1 … 1."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    slopes_y, slopes_x, phases = rng.uniform(-1, 1, size=(3, 3, 1, 1))
    # (waves, height, width)
    waves = np.sin(np.pi * (6 * slopes_y * y + 6 * slopes_x * x + phases))
    shade = (slopes_y[0] * (2 * y - 1) + slopes_x[0] * (2 * x - 1)) / 2
    textures = (np.zeros_like(x), shade, np.sign(waves[0] * waves[1]), waves.mean(axis=0))
    return textures[rng.integers(len(textures))]


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


def _place(motion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts a motion somewhere inside the picture and lets it drift, (frames, 3): horizontal, vertical, radius."""
    offsets, radii = motion[:, :2], motion[:, 2:]
    margin = abs(offsets).max(axis=0) + radii.max()
    drift = np.linspace(-0.5, 0.5, len(motion))[:, None] * rng.uniform(-0.06, 0.06, size=2)
    return np.hstack([rng.uniform(margin, 1 - margin) + offsets + drift, radii])


def _paint(frames: np.ndarray, path: np.ndarray, shape: str, angle: float, colour: np.ndarray) -> None:
    """Paints a shape along a path into frames of shape (frames, 3, height, width), in place.

    Shapes of the same radius have the same area, so that the brightness of a frame does not name its shape.
    """
    height, width = frames.shape[2:]
    path = (path * [width, height, min(height, width)]).astype(np.float32)
    # (frames, 1, 1) each
    centre_x, centre_y, radius = path.T[..., None, None]
    x = np.arange(width, dtype=np.float32) + 0.5 - centre_x
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - centre_y
    # (frames, height, width), in pixels
    if shape == "circle":
        outside = np.sqrt(x * x + y * y) - radius
    else:
        sides = _POLYGON_SIDES[shape]
        normals = [angle + 2 * math.pi * side / sides for side in range(sides)]
        outside = reduce(np.maximum, [x * math.cos(normal) + y * math.sin(normal) for normal in normals])
        outside -= radius * math.sqrt(math.pi / sides / math.tan(math.pi / sides))
    coverage = np.clip(0.5 - outside, 0, 1)[:, None]
    frames += coverage * (colour.astype(np.float32)[:, None, None] - frames)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write videos whose classes differ only in the direction of time.")
    parser.add_argument("root", type=Path, help="folder to write")
    parser.add_argument("--num_train", type=int, default=2000, help="training clips over all classes")
    parser.add_argument("--num_val", type=int, default=600, help="validation clips over all classes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set")
    write_motion_clips(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
