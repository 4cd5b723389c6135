"""
Classifies videos of any length: files, folders or globs, from start to end.

    vtn classify --model RUN VIDEOS … --output scores.jsonl
    vtn classify --model RUN recording.mp4 --fps 5 --window 50 --save_video annotated.mp4

Prints the best classes of each video, and which class when. `--output` also writes them as they are made, as JSON
lines, a JSON list or CSV by its ending; stopped and started again, the same command goes on. `--compile` and `--int8`
make the backbone faster (of the second it prints how much, and what it does to the logits); so does another engine.
With `--confidence 0.95` it looks at a few frames of each video first, and at more only until it is certain; with
`--max_seconds 5` until the time is up. Videos that cannot be decoded are listed at the end and make the exit status 1.
"""

import argparse
import contextlib
import itertools
import json
import sys
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageDraw

from .. import VTNForVideoClassification, VTNVideoProcessor
from ..data.feature_cache import hash_weights
from ..inference.whole_video import Segment, VideoClassification, classify_video
from ..optimization.quantization import measure_quantization
from ..outputs import check_outputs, name_outputs, remove_unfinished, writing
from ..results import ResultFile, begin_or_go_on, one_run
from ..video_decoding_vtn import iter_video_frames
from .arguments import add_shared, choose_device, positive, speed_up
from .console import CommandParser, command, show
from .scores import flatten_scores, list_score_columns, rank
from .sources import find_videos


# Of the first video, to tell what int8 does to it.
FRAMES_COMPARED = 8
# Why not all frames were looked at, in words.
STOPS = {"certain": "certain", "time": "the time was up"}
# FFmpeg's names of the containers of annotated copies.
COPY_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
# Options that the scores depend on.
SETTINGS = ("fps", "num_frames", "window", "stride", "repeat_threshold", "top_k", "int8", "engine", "dtype")
SETTINGS += ("confidence", "max_seconds", "min_frames", "calibrated")


def plan_copies(target: Path | None, videos: list[str], folders: list[str]) -> dict[str, Path]:
    """Where the annotated copy of each video goes: to `target`, or below it at the place that the video has."""
    if target is None:
        return {}
    if target.suffix.lower() not in COPY_FORMATS:
        return dict(zip(videos, (target / name for name in name_outputs(videos, ".mp4", folders)), strict=True))
    if len(videos) > 1:
        raise ValueError(f"--save_video {target} is one file for {len(videos)} videos; name a folder.")
    return {videos[0]: target}


def describe(path: str, result: VideoClassification, labels: dict[int, str], top_k: int) -> dict:
    """What is printed and written of one video."""
    return {
        "video": path,
        "frames": len(result.video.features),
        "frames_encoded": result.video.num_encoded,
        "stopped": result.stopped,
        "duration_sec": result.video.duration,
        "scores": rank(result.scores, labels, top_k),
        "timeline": [
            {
                "first_frame": segment.first_frame,
                "last_frame": segment.last_frame,
                "start_sec": segment.start_sec,
                "end_sec": segment.end_sec,
                "scores": rank(segment.scores, labels, top_k),
            }
            for segment in result.timeline
        ],
    }


def list_stretches(timeline: list[dict]) -> list[tuple[str, str]]:
    """From when to when a class is the best one, in words, and its name."""
    stretches = []
    for label, parts in itertools.groupby(timeline, key=lambda part: part["scores"][0]["label"]):
        parts = list(parts)
        start, end = parts[0]["start_sec"], parts[-1]["end_sec"]
        span = (
            f"frames {parts[0]['first_frame']} to {parts[-1]['last_frame']}"
            if start is None
            else f"{start:.1f} s to {end:.1f} s"
        )
        stretches.append((span, label))
    return stretches


def print_summary(row: dict):
    show(f"{row['video']}: " + ", ".join(f"{best['label']} {best['score']:.3f}" for best in row["scores"]))
    if row["stopped"] != "all frames":
        show(f"    after {row['frames']} frames: {STOPS[row['stopped']]}")
    for span, label in list_stretches(row["timeline"]):
        show(f"    {span}: {label}")


def to_table_row(row: dict) -> dict:
    """A row of the CSV file; its timeline is JSON: from when to when, and the class."""
    return row | flatten_scores(row["scores"]) | {"timeline": json.dumps(list_stretches(row["timeline"]))}


def save_annotated(path: Path, source: str, timeline: list[Segment], labels: dict[int, str], fps: float | None):
    """A copy of the video, without sound, with the class of the moment written into the picture."""
    moment = 0
    with writing(path) as unfinished, av.open(unfinished, "w", format=COPY_FORMATS[path.suffix.lower()]) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps or 25).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(iter_video_frames(source)):
            while moment < len(timeline) - 1 and number > timeline[moment].last_frame:
                moment += 1
            picture = Image.fromarray(frame)
            score, index = timeline[moment].scores.max(dim=0)
            text = f"{labels[int(index)]} {score:.2f}"
            draw = ImageDraw.Draw(picture)
            draw.rectangle(draw.textbbox((4, 4), text), fill="black")
            draw.text((4, 4), text, fill="white")
            # The encoder takes even sides only.
            height, width = (max(side - side % 2, 2) for side in frame.shape[:2])
            if number == 0:
                stream.height, stream.width = height, width
            container.mux(stream.encode(av.VideoFrame.from_image(picture.crop((0, 0, stream.width, stream.height)))))
        container.mux(stream.encode())


def make_parser() -> CommandParser:
    parser = CommandParser("classify", __doc__)
    count = positive(int)
    parser.add_argument("videos", nargs="+", help="files, URLs, folders or globs")
    add_shared(parser, "model", required=True)
    add_shared(parser, "output", help="predictions, .jsonl, .json or .csv")
    parser.add_argument("--save_video", type=Path, help="annotated copy: a folder, or a file for a single video")
    add_shared(parser, "overwrite")
    parser.add_argument("--top_k", type=count, default=5, help="classes to show and write")
    frames = parser.add_argument_group("frames")
    add_shared(frames, "fps", default_is="every frame")
    add_shared(frames, "num_frames", default_is="all")
    frames.add_argument("--window", type=count, help="frames behind each moment of the timeline; default: the model's")
    frames.add_argument("--stride", type=count, help="frames between two moments; default: half a window")
    frames.add_argument(
        "--repeat_threshold", type=positive(float), help="grey levels below which a frame repeats the last one"
    )
    enough = parser.add_argument_group("when it is enough")
    enough.add_argument(
        "--confidence",
        type=confidence,
        help="score from which no more frames are looked at, or stored: that of vtn evaluate --calibrate",
    )
    enough.add_argument("--max_seconds", type=positive(float), help="seconds for a video, within a chunk of frames")
    enough.add_argument("--min_frames", type=count, default=8, help="frames of the first look")
    enough.add_argument("--calibrated", action="store_true", help="scores by the temperature of --calibrate, too")
    compute = parser.add_argument_group("how to compute")
    add_shared(compute, "device")
    add_shared(compute, "engine")
    add_shared(compute, "dtype")
    compute.add_argument(
        "--frames_per_chunk", type=count, help="frames per call of the backbone; default: the model's"
    )
    faster = compute.add_mutually_exclusive_group()
    faster.add_argument("--compile", action="store_true", help="torch.compile the backbone: pays off in long videos")
    faster.add_argument("--int8", action="store_true", help="int8 backbone, on a CPU: about twice as fast")
    return parser


def confidence(text: str) -> float | str:
    """Reads a score, or the word for the one that is stored."""
    if text == "stored":
        return text
    number = float(text)
    if not 0 < number <= 1:
        raise ValueError
    return number


class Classifier:
    """The model as the options ask for it, and what it says of videos."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.model = VTNForVideoClassification.from_pretrained(options.model).to(choose_device(options.device))
        self.processor = VTNVideoProcessor.from_pretrained(options.model)
        self.settings = {name: getattr(options, name) for name in SETTINGS}
        self.settings |= {"model": options.model, "weights": hash_weights(self.model)}
        self._exact = self.model if options.int8 else None
        faster = {"int8": options.int8, "compile": options.compile}
        self.model = speed_up(self.model, options.engine, options.dtype, **faster)
        self.labels = self.model.config.id2label
        classes = list_score_columns(min(options.top_k, len(self.labels)))
        self.columns = ["video", *classes, "frames", "frames_encoded", "stopped", "duration_sec", "timeline"]

    def __call__(self, video: str) -> VideoClassification:
        options = self.options
        if self._exact is not None:
            inputs = self.processor(video, num_frames=FRAMES_COMPARED, return_tensors="pt")
            change = measure_quantization(self._exact, self.model, inputs)
            show(f"int8: {change} ({FRAMES_COMPARED} frames of {video})")
            self._exact = None
        return classify_video(
            self.model,
            self.processor,
            video,
            num_frames=options.num_frames,
            fps=options.fps,
            window=options.window,
            stride=options.stride,
            frames_per_chunk=options.frames_per_chunk,
            repeat_threshold=options.repeat_threshold,
            confidence=options.confidence,
            max_seconds=options.max_seconds,
            min_frames=options.min_frames,
            calibrated=options.calibrated,
            progress=sys.stderr.isatty(),
        )


def classify_all(
    classifier: Classifier,
    videos: list[str],
    copies: dict[str, Path],
    results: ResultFile | None,
    failures: list[str],
):
    """Classifies what is not done yet, and notes what failed."""
    recorded = {row["video"] for row in results.records} if results else set()
    to_do = [video for video in videos if video not in recorded or (video in copies and not copies[video].exists())]
    if len(to_do) < len(videos):
        show(f"{len(videos) - len(to_do)} of {len(videos)} videos are done already.")
    for video in to_do:
        try:
            result = classifier(video)
        except (ValueError, OSError) as error:
            failures.append(str(error) if video in str(error) else f"{video}: {error}")
            continue
        row = describe(video, result, classifier.labels, classifier.options.top_k)
        print_summary(row)
        if results is not None and video not in recorded:
            results.append(to_table_row(row) if results.is_table else row)
        if video in copies:
            try:
                save_annotated(copies[video], video, result.timeline, classifier.labels, result.video.fps)
            except (ValueError, OSError, av.FFmpegError) as error:
                failures.append(f"{copies[video]}, the copy of {video}: {error}")


def plan(options: argparse.Namespace) -> tuple[list[str], dict[str, Path]]:
    """The videos and where their copies go, if all that is wanted can be had without a loss."""
    if options.output is not None and options.output.suffix not in ResultFile.SUFFIXES:
        raise ValueError(f"--output must end in {', '.join(ResultFile.SUFFIXES)}, got {options.output}.")
    videos, folders = find_videos(options.videos)
    copies = plan_copies(options.save_video, videos, folders)
    outputs = [*copies.values(), *([] if options.output is None else [options.output])]
    check_outputs(outputs, [*options.videos, *videos, *Path(options.model).glob("*")], overwrite=True)
    goes_on = options.output is not None and options.output.exists()
    check_outputs(copies.values(), overwrite=options.overwrite or goes_on)
    return videos, copies


def open_results(classifier: Classifier, copies: dict[str, Path], stack: contextlib.ExitStack) -> ResultFile | None:
    """The file to write, or to go on with."""
    output, overwrite = classifier.options.output, classifier.options.overwrite
    if output is None:
        return None
    stack.enter_context(one_run(output))
    if begin_or_go_on(output, classifier.settings, overwrite):
        for copy in copies.values():
            remove_unfinished(copy)
    else:
        output.unlink(missing_ok=True)
    return stack.enter_context(ResultFile(output, classifier.columns))


@command("classify")
def main(argv: list[str] | None = None) -> int:
    """Classifies as the arguments say; returns the exit status."""
    options = make_parser().parse_args(argv)
    failures = []
    with contextlib.ExitStack() as stack:
        videos, copies = plan(options)
        classifier = Classifier(options)
        results = open_results(classifier, copies, stack)
        try:
            classify_all(classifier, videos, copies, results, failures)
        except KeyboardInterrupt:
            show("Stopped; the same command goes on." if results else "Stopped.", file=sys.stderr)
            return 130
        finally:
            if failures:
                show(f"{len(failures)} of {len(videos)} videos failed:", file=sys.stderr)
                show("\n".join(f"    {failure}" for failure in failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
