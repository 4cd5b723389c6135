"""What the generated collections of videos share: shapes painted along paths, encoding, and the folder.

A collection is a function `draw(class_name, rng)` that gives the frames and the frame rate of a random video. It is
written like Kinetics, ROOT/{train,val}/<class name>/<video id>.mp4, beside a record of what it was written with.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial, reduce
from pathlib import Path

import numpy as np
from tqdm import tqdm


SPLITS = ("train", "val")
_POLYGON_SIDES = {"triangle": 3, "square": 4}
SHAPES = ("circle", *_POLYGON_SIDES)

Draw = Callable[[str, np.random.Generator], tuple[np.ndarray, int]]


def write_videos(
    root: str | os.PathLike,
    draw: Draw,
    class_names: Sequence[str],
    record_name: str,
    num_train: int,
    num_val: int,
    seed: int,
    num_workers: int | None = None,
) -> Path:
    """Writes a Kinetics-style folder of videos, equally many (within one) of every class.

    A video depends on the seed, its split and its index in the split, and on nothing else. A folder that a call with
    the same parameters completed is left as it is; one that such a call left unfinished is written again.

    Args:
        root: The folder to write: a new or empty one, or one written with the same parameters.
        draw: Gives the frames, uint8 RGB of shape (frames, height, width, 3), and the frame rate of a random video;
            worker processes import it.
        class_names: All classes.
        record_name: The file in `root` that says what the folder was written with.
        num_train: Number of training videos over all classes.
        num_val: Number of validation videos over all classes.
        seed: Non-negative seed of the whole set.
        num_workers: Number of processes; default: one per CPU.

    Returns:
        `root` as a path.

    Raises:
        ValueError: If `num_train` is not positive, **or** if `num_val` or `seed` is negative.
        FileExistsError: If `root` holds anything else than videos written with the same parameters.
    """
    for name, value, least in (("num_train", num_train, 1), ("num_val", num_val, 0), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    root = Path(root)
    parameters = {"num_train": num_train, "num_val": num_val, "seed": seed}
    if _is_complete(root / record_name, parameters):
        return root
    for split in SPLITS:
        for class_name in class_names:
            (root / split / class_name).mkdir(parents=True, exist_ok=True)
    _write_record(root / record_name, parameters, complete=False)
    splits = ["train"] * num_train + ["val"] * num_val
    indices = [*range(num_train), *range(num_val)]
    with ProcessPoolExecutor(num_workers) as pool:
        write = partial(_write_video, root, draw, class_names, seed)
        for _ in tqdm(pool.map(write, splits, indices, chunksize=8), total=len(splits), unit="clip"):
            pass
    _write_record(root / record_name, parameters, complete=True)
    return root


def make_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The source of everything random in one video of a collection."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def _is_complete(record_path: Path, parameters: dict[str, int]) -> bool:
    """Tells whether the set is there already, and refuses a folder that holds anything else."""
    root = record_path.parent
    if record_path.exists():
        record = json.loads(record_path.read_text())
        complete = record.pop("complete")
        if record != parameters:
            raise FileExistsError(f"{root} holds videos written with {record}, not with {parameters}.")
        return complete
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(
            f"{root} is not empty and has no {record_path.name}: it was not written by this function."
        )
    return False


def _write_record(record_path: Path, parameters: dict[str, int], complete: bool) -> None:
    record_path.write_text(json.dumps({**parameters, "complete": complete}) + "\n")


def _write_video(root: Path, draw: Draw, class_names: Sequence[str], seed: int, split: str, index: int) -> None:
    class_name = class_names[index % len(class_names)]
    frames, frame_rate = draw(class_name, make_generator(seed, split, index))
    encode(root / split / class_name / f"{split}_{index:06d}.mp4", frames, frame_rate)


def encode(path: Path, frames: np.ndarray, frame_rate: int) -> None:
    """Writes an mp4 file in which every frame is coded alone and with the same quantiser.

    Encoding then commutes with playing backwards, pixel for pixel: neither prediction from earlier frames nor rate
    control leaves a trace of the direction of time.
    """
    import av

    # This takes 52 kB and 6 ms a clip; predicted frames (crf 23) took 10 to 40 kB, no less time, and did not commute.
    options = {"preset": "ultrafast", "qp": "24", "g": "1"}
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frame_rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def draw_canvas(num_frames: int, height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws equal frames with a textured background, float32 (frames, 3, height, width), and a distinct colour."""
    colour, background = _draw_colours(rng)
    tint = rng.uniform(-25, 25, size=(3, 1, 1))
    background = background[:, None, None] + tint * _draw_pattern(height, width, rng)
    return np.tile(background.astype(np.float32), (num_frames, 1, 1, 1)), colour


def to_pictures(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds noise to frames (frames, 3, height, width), in place, and makes them uint8 (frames, height, width, 3)."""
    num_frames, _, height, width = frames.shape
    # Grey noise: the encoder halves the resolution of colour, which would blur coloured noise away.
    frames += rng.uniform(2, 6) * rng.standard_normal((num_frames, 1, height, width), dtype=np.float32)
    return np.ascontiguousarray(frames.round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


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


def place(motion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts a motion somewhere inside the picture and lets it drift, (frames, 3): horizontal, vertical, radius."""
    offsets, radii = motion[:, :2], motion[:, 2:]
    margin = abs(offsets).max(axis=0) + radii.max()
    drift = np.linspace(-0.5, 0.5, len(motion))[:, None] * rng.uniform(-0.06, 0.06, size=2)
    return np.hstack([rng.uniform(margin, 1 - margin) + offsets + drift, radii])


def paint(frames: np.ndarray, path: np.ndarray, shape: str, angle: float, colour: np.ndarray) -> None:
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
