"""
Writes a collection anew with all videos of one size, one frame rate and at most one length, so that none of them can
tell the classes apart.

    PYTHONPATH=examples python -m filmed.equalize ROOT EQUAL

Pictures are squeezed to a square smaller than the smallest of them; frames are the ones shown at even times from the
start of a video on. What is beside the class folders is copied.
"""

import argparse
import shutil
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from vtn_hf.data.collection import read_collection
from vtn_hf.data.video_frames import iter_video_frames
from vtn_hf.video_decoding_vtn import TimedVideoMetadata


SIZE = 192
RATE = 5
MAX_FRAMES = 10


def choose_frames(metadata: TimedVideoMetadata) -> list[int]:
    """The numbers of the frames shown at the times 0, 1 / RATE, …"""
    times = np.arange(MAX_FRAMES) / RATE
    # A hair later, as a time on the border of two frames belongs to the second.
    numbers = np.floor(times * metadata.fps + 1e-6).astype(int)
    return [int(number) for number in numbers if number < metadata.total_num_frames]


def write_equal(source: str, target: Path):
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(target, "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for picture in iter_video_frames(source, choose_frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(SIZE, SIZE, "yuv420p", interpolation="AREA")))
        container.mux(stream.encode())


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Videos of one size, rate and length.")
    parser.add_argument("data_dir", type=Path, help="ROOT/CLASS/VIDEO")
    parser.add_argument("output_dir", type=Path, help="the same, anew")
    options = parser.parse_args(argv)
    collection = read_collection(str(options.data_dir), val_share=0)
    for video in tqdm(collection.get_split("train")["video"][:], unit="video"):
        relative = Path(video["path"]).relative_to(options.data_dir)
        write_equal(video["path"], (options.output_dir / relative).with_suffix(".mp4"))
    for path in options.data_dir.iterdir():
        if path.is_file():
            shutil.copy(path, options.output_dir)


if __name__ == "__main__":
    main()
