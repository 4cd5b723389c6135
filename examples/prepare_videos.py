"""
Transcodes a collection once, so that random clips of it decode several times faster in every epoch.

    python examples/prepare_videos.py VIDEOS PREPARED

Every video under VIDEOS becomes an mp4 file at the same place under PREPARED: all of its frames in order, upright,
with the short side as given, key frames close to each other so that a seek has little to decode, and every second
frame one that no other refers to, so that it can be left out. The frame rate is made constant at its mean. A file that
is there already is kept, so a run that was stopped goes on; the files that failed are listed, with the reason, in
PREPARED/failed.csv.
"""

import argparse
import csv
import os
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
from tqdm import tqdm

from vtn_hf.data.file_pool import map_files
from vtn_hf.data.kinetics import VIDEO_EXTENSIONS
from vtn_hf.video_decoding_vtn import DecodeLimits, VideoDecodeError, iter_video_frames


def prepare_video(paths: tuple[Path, Path], short_side: int, key_frame_distance: int, crf: int, limits: DecodeLimits):
    """
    Transcodes one video; the target appears when it is complete.

    Args:
        paths: Source and target.
        short_side: Pixels of the shorter side; a smaller picture keeps its size.
        key_frame_distance: Frames from one key frame to the next.
        crf: x264's constant rate factor: quality, lower is better.
        limits: What the source may cost.

    Raises:
        VideoDecodeError: If the source cannot be decoded fully.
    """
    source, target = paths
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    found = []

    def take_all(metadata) -> range:
        found.append(metadata)
        return range(metadata.total_num_frames)

    # No other frame refers to a B frame here, for which three frames are room enough; `fastdecode` leaves out the
    # filters that cost the decoder most.
    options = {"preset": "medium", "tune": "fastdecode", "crf": str(crf)}
    options["x264-params"] = (
        f"keyint={key_frame_distance}:min-keyint=1:scenecut=0:bframes={int(key_frame_distance > 2)}:b-adapt=0:"
        "b-pyramid=none"
    )
    try:
        with av.open(part, "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = None
            for picture in iter_video_frames(source, take_all, limits=limits):
                if stream is None:
                    rate = Fraction(found[0].fps or 25).limit_denominator(1001)
                    stream = container.add_stream("libx264", rate=rate, options=options)
                    stream.height, stream.width = _fit(*picture.shape[:2], short_side)
                    stream.pix_fmt = "yuv420p"
                    stream.thread_count = 1
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame = frame.reformat(stream.width, stream.height, "yuv420p", interpolation="BICUBIC")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _fit(height: int, width: int, short_side: int) -> tuple[int, int]:
    """The size with the given short side, in even numbers, as 4:2:0 pictures need them."""
    scale = min(1, short_side / min(height, width))
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (height, width))


def prepare_videos(
    root: Path,
    target_root: Path,
    short_side: int = 256,
    key_frame_distance: int = 4,
    crf: int = 23,
    num_workers: int | None = None,
    time_limit_sec: float = 600,
) -> dict[Path, str]:
    """
    Transcodes all videos under a folder that are not transcoded yet.

    Returns:
        The reason by source of those that failed, which is also in `failed.csv`.

    Raises:
        ValueError: If two videos would become the same file.
    """
    sources = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in VIDEO_EXTENSIONS]
    targets = {source: target_root / source.relative_to(root).with_suffix(".mp4") for source in sources}
    if len(set(targets.values())) < len(targets):
        raise ValueError(f"Some videos under {root} differ in their endings only; rename them.")
    to_do = [(source, target) for source, target in targets.items() if not target.exists()]
    print(f"{len(sources) - len(to_do)} of {len(sources)} videos are done already.")
    limits = DecodeLimits(max_decode_sec=time_limit_sec)
    prepare = partial(
        prepare_video, short_side=short_side, key_frame_distance=key_frame_distance, crf=crf, limits=limits
    )
    target_root.mkdir(parents=True, exist_ok=True)
    failed = {}
    results = map_files(prepare, to_do, num_workers or os.cpu_count(), time_limit_sec + 10)
    for (source, target), error in tqdm(results, total=len(to_do), unit="video"):
        if error is not None:
            target.with_suffix(".part").unlink(missing_ok=True)
            failed[source] = str(error) if isinstance(error, VideoDecodeError) else f"{source}: {error!r}"
    with open(target_root / "failed.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "reason"), *failed.items()])
    return failed


def main():
    """Transcodes and says what failed."""
    parser = argparse.ArgumentParser(description="Transcode videos so that random clips decode fast.")
    parser.add_argument("root", type=Path, help="folder with videos at any depth")
    parser.add_argument("target_root", type=Path, help="folder to write")
    parser.add_argument("--short_side", type=int, default=256, help="pixels of the shorter side")
    parser.add_argument("--key_frame_distance", type=int, default=4, help="frames from key frame to key frame")
    parser.add_argument("--crf", type=int, default=23, help="x264's constant rate factor; lower is better")
    parser.add_argument("--num_workers", type=int, help="videos at a time; default: one per CPU")
    parser.add_argument("--time_limit_sec", type=float, default=600, help="seconds for one video")
    failed = prepare_videos(**vars(parser.parse_args()))
    for reason in failed.values():
        print(f"failed: {reason}")


if __name__ == "__main__":
    main()
