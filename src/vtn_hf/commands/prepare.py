"""
Transcodes a collection once, so that random clips of it decode several times faster in every epoch.

    vtn prepare --data_dir VIDEOS --output_dir PREPARED

Every video under VIDEOS becomes an mp4 file at the same place under PREPARED: all of its frames in order, upright,
with the short side as given, key frames close to each other so that a seek has little to decode, and every second
frame one that no other refers to, so that it can be left out. The frame rate is made constant at its mean. Of two
files whose names differ in their endings only, one that is no mp4 keeps its ending: `x.mkv.mp4`. The same command goes
on where it was stopped, and makes again what is older than its source. The files that fail are listed as they do, with
the reason, in PREPARED/failed.csv, and make the exit status 1.
"""

import os
import sys
from collections.abc import Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
from tqdm import tqdm

from ..data.file_pool import map_files
from ..data.video_frames import iter_video_frames
from ..outputs import check_outputs, name_outputs, remove_unfinished, writing
from ..results import ResultFile, begin_or_go_on, one_run
from ..video_decoding_vtn import DecodeLimits, VideoDecodeError
from .arguments import add_shared, positive
from .console import CommandParser, command, show
from .sources import find_videos


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
    with (
        writing(target) as unfinished,
        av.open(unfinished, "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = None
        for picture in iter_video_frames(source, take_all, limits=limits):
            if stream is None:
                rate = Fraction(found[0].fps or 25).limit_denominator(1001)
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width = _fit(picture.shape[0], picture.shape[1], short_side)
                stream.pix_fmt = "yuv420p"
                stream.thread_count = 1
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(stream.width, stream.height, "yuv420p", interpolation="BICUBIC")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _fit(height: int, width: int, short_side: int) -> tuple[int, int]:
    """The size with the given short side, in even numbers, as 4:2:0 pictures need them."""
    scale = min(1, short_side / min(height, width))
    height, width = (max(2, 2 * round(side * scale / 2)) for side in (height, width))
    return height, width


def prepare_videos(
    root: Path,
    target_root: Path,
    short_side: int = 256,
    key_frame_distance: int = 4,
    crf: int = 23,
    num_workers: int | None = None,
    time_limit_sec: float = 600,
    overwrite: bool = False,
) -> dict[Path, str]:
    """
    Transcodes all videos under a folder that are not transcoded yet.

    Returns:
        The reason by source of those that failed, which is also in `failed.csv`.

    Raises:
        FileNotFoundError: If there are no videos.
        ValueError: If a file would be written into `root`, or what is in `target_root` was made with other settings.
        FileExistsError: If something else is in `target_root`.
    """
    sources = [Path(video) for video in find_videos([str(root)])[0]]
    targets = [target_root / name for name in name_outputs(sources, ".mp4", [root])]
    check_outputs([target_root, *targets], [root, *sources], overwrite=True)
    target_root.mkdir(parents=True, exist_ok=True)
    settings = {"short_side": short_side, "key_frame_distance": key_frame_distance, "crf": crf}
    with one_run(target_root):
        if not begin_or_go_on(target_root, settings, overwrite):
            for target in targets:
                target.unlink(missing_ok=True)
        to_do = [pair for pair in zip(sources, targets, strict=True) if not _is_done(*pair)]
        print(f"{len(sources) - len(to_do)} of {len(sources)} videos are done already.", flush=True)
        _warn_of_others(target_root, targets)
        prepare = partial(
            prepare_video,
            short_side=short_side,
            key_frame_distance=key_frame_distance,
            crf=crf,
            limits=DecodeLimits(max_decode_sec=time_limit_sec),
        )
        results = map_files(prepare, to_do, num_workers or os.cpu_count() or 1, time_limit_sec + 10)
        try:
            return _list_failures(tqdm(results, total=len(to_do), unit="video"), target_root / "failed.csv")
        finally:
            results.close()
            for _, target in to_do:  # of processes that were ended
                remove_unfinished(target)


def _is_done(source: Path, target: Path) -> bool:
    return target.is_file() and source.is_file() and target.stat().st_mtime >= source.stat().st_mtime


def _warn_of_others(target_root: Path, targets: list[Path]):
    """Names videos that are no longer made from anything, which a training would use nevertheless."""
    others = sorted(set(target_root.rglob("*.mp4")) - set(targets))
    if others:
        named = ", ".join(map(str, others[:3])) + (", …" if len(others) > 3 else "")
        show(f"{len(others)} videos have no source (any more); remove them if they are not wanted: {named}")


def _list_failures(results: Iterable, path: Path) -> dict[Path, str]:
    """Writes what failed as it does; returns it."""
    failed = {}
    path.unlink(missing_ok=True)
    with ResultFile(path, ["path", "reason"]) as file:
        for (source, _), error in results:
            if error is not None:
                failed[source] = str(error) if isinstance(error, VideoDecodeError) else f"{source}: {error!r}"
                file.append({"path": str(source), "reason": failed[source]})
    return failed


def make_parser() -> CommandParser:
    parser = CommandParser("prepare", __doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of videos: at any depth")
    add_shared(parser, "output_dir", required=True)
    add_shared(parser, "overwrite")
    parser.add_argument("--short_side", type=positive(int), default=256, help="pixels of the shorter side")
    parser.add_argument("--key_frame_distance", type=positive(int), default=4, help="frames from key to key frame")
    parser.add_argument("--crf", type=int, choices=range(52), metavar="0-51", default=23, help="x264's rate factor")
    add_shared(parser, "num_workers", default_is="one per CPU")
    add_shared(parser, "time_limit_sec", default=600)
    return parser


@command("prepare")
def main(argv: list[str] | None = None) -> int:
    """Transcodes and says what failed; returns the exit status."""
    options = vars(make_parser().parse_args(argv))
    failed = prepare_videos(options.pop("data_dir"), options.pop("output_dir"), **options)
    for reason in failed.values():
        show(f"failed: {reason}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
