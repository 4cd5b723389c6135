"""Video files for the tests."""

import io
import tarfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import load_file


def write_video(path: Path, frames: np.ndarray, fps: int = 10, times: Sequence[float] | None = None) -> Path:
    """
    Encodes uint8 RGB frames (frames, height, width, 3) without loss: decoding gives them back bit for bit. They are
    shown at these times, in seconds, or `fps` per second.
    """
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"qp": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 30_000)
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(30_000 * times[number]), Fraction(1, 30_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_original_frame(fixtures: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """
    A frame, uint8 (256, 340, 3), black above row 150; and of what the original makes of its three crops the rows from
    132 on, which do not depend on what is black, (3, 3, 92, 224).
    """
    reference = load_file(fixtures / "preprocess.safetensors")
    frame = torch.zeros(256, 340, 3, dtype=torch.uint8)
    frame[150:] = reference["arm_wrestling_k400.mp4.rgb_frame0_rows_150_to_256"]
    return frame, reference["arm_wrestling_k400.mp4.three_crops_scale224_frame0_rows_132_to_224"].float()


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    """Writes files, by their names, into a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    return path


def write_shards(clips: Path, root: Path) -> Path:
    """Writes the videos of class folders into two WebDataset shards per split, {split}/{number}.tar."""
    for split in ("train", "val"):
        paths = sorted((clips / split).glob("*/*.mp4"))
        for number in range(2):
            files = {}
            for path in paths[number::2]:
                files |= {path.name: path.read_bytes(), f"{path.stem}.txt": path.parent.name.encode()}
            write_shard(root / split / f"{number}.tar", files)
    class_names = sorted(folder.name for folder in (clips / "train").iterdir())
    (root / "classes.txt").write_text("\n".join(class_names))
    return root
