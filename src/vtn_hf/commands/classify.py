"""
Classifies videos of any length: files, folders or globs, from start to end.

    vtn classify --model RUN VIDEOS … --output scores.jsonl
    vtn classify --model RUN recording.mp4 --fps 5 --window 50 --save_video annotated.mp4
    accelerate launch -m vtn_hf.commands.classify --model RUN VIDEOS --output scores.jsonl

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
from accelerate import PartialState
from PIL import Image, ImageDraw

from .. import VTNVideoProcessor
from ..data.class_names import escape_bytes
from ..data.feature_cache import hash_weights
from ..data.video_frames import iter_video_frames
from ..inference.whole_video import Segment, VideoClassification, classify_video
from ..optimization.quantization import measure_quantization
from ..outputs import check_outputs, name_outputs, remove_unfinished, writing
from ..processes import find_processes, together
from ..results import ResultFile, begin_or_go_on, one_run
from ..shared_results import SharedResults
from ..video_decoding_vtn import VideoSource
from .arguments import add_shared, choose_device, choose_shared_device, load_model, positive, speed_up
from .console import CommandParser, command, show
from .scores import flatten_scores, list_score_columns, rank
from .sources import find_sources


# Of the first video, to tell what int8 does to it.
FRAMES_COMPARED = 8
# Why not all frames were looked at, in words.
STOPS = {"certain": "certain", "time": "the time was up"}
# FFmpeg's names of the containers of annotated copies.
COPY_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
# Options that the scores depend on.
SETTINGS = (
    "fps",
    "num_frames",
    "window",
    "stride",
    "repeat_threshold",
    "top_k",
    "int8",
    "engine",
    "dtype",
    "confidence",
    "max_seconds",
    "min_frames",
    "calibrated",
)


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
    for label, group in itertools.groupby(timeline, key=lambda part: part["scores"][0]["label"]):
        parts = list(group)
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


def save_annotated(
    path: Path, source: VideoSource, timeline: list[Segment], labels: dict[int, str], fps: float | None
):
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
    enough.add_argument("--max_seconds", type=positive(float), help="seconds for a video, to within a frame")
    enough.add_argument(
        "--min_frames",
        type=count,
        help="frames of the first look; default: 8, or what --calibrate found with a stored confidence",
    )
    enough.add_argument("--calibrated", action="store_true", help="scores by the temperature of --calibrate, too")
    compute = parser.add_argument_group("how to compute")
    add_shared(compute, "device")
    add_shared(compute, "engine")
    add_shared(compute, "dtype")
    add_shared(compute, "frames_per_chunk", default_is="the model's", type=count)
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

    def __init__(self, options: argparse.Namespace, state: PartialState):
        self.options = options
        device = choose_device(options.device) if state.num_processes == 1 else state.device
        self.model = load_model(options.model).to(device)
        self.processor = VTNVideoProcessor.from_pretrained(options.model)
        self.settings = {name: getattr(options, name) for name in SETTINGS}
        self.settings |= {"model": options.model, "weights": hash_weights(self.model)}
        self._exact = self.model if options.int8 else None
        faster = {"int8": options.int8, "compile": options.compile}
        self.model = speed_up(self.model, options.engine, options.dtype, **faster)
        self.is_alone = state.num_processes == 1
        self.labels = self.model.config.id2label
        classes = list_score_columns(min(options.top_k, len(self.labels)))
        self.columns = ["video", *classes, "frames", "frames_encoded", "stopped", "duration_sec", "timeline", "error"]

    def __call__(self, video: VideoSource) -> VideoClassification:
        options = self.options
        if self._exact is not None:
            inputs = self.processor(video, num_frames=FRAMES_COMPARED, return_tensors="pt")
            change = measure_quantization(self._exact, self.model, inputs)
            show(f"int8: {change} ({FRAMES_COMPARED} frames of {video!s})")
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
            progress=sys.stderr.isatty() and self.is_alone,
        )


class Run:
    """
    The videos to classify, by this process and those that were launched with it.

    Args:
        classifier ([`Classifier`]): Says what there is to say of a video.
        sources (`dict[str, VideoSource]`): The videos, by their names.
        copies (`dict[str, Path]`): Where the annotated copies go.
        results ([`SharedResults`], *optional*): Where what is said goes.
        state (`PartialState`): The processes.
    """

    def __init__(
        self,
        classifier: Classifier,
        sources: dict[str, VideoSource],
        copies: dict[str, Path],
        results: SharedResults | None,
        state: PartialState,
    ):
        self.classifier, self.sources, self.copies, self.results = classifier, sources, copies, results
        self.state = state
        self.failures: list[str] = []

    def is_done(self, record: dict) -> bool:
        """Whether nothing is left to do. What failed is tried again: the reason may be gone."""
        video = record["video"]
        return not record.get("error") and (video not in self.copies or self.copies[video].exists())

    def classify_all(self):
        """Classifies this process's share of what is not done yet, and notes what failed."""
        videos = list(self.sources)
        if self.results is None:
            to_do = videos[self.state.process_index :: self.state.num_processes]
        else:
            to_do = self.results.begin(videos, self.is_done)
            num_done = len(videos) - self.results.num_left
            if num_done and self.state.is_main_process:
                show(f"{num_done} of {len(videos)} videos are done already.")
        for video in to_do:
            self._classify(video)

    def _classify(self, video: str):
        try:
            result = self.classifier(self.sources[video])
        except (ValueError, OSError) as error:
            self._fail(video, str(error) if video in str(error) else f"{video}: {error}")
            return
        row = describe(video, result, self.classifier.labels, self.classifier.options.top_k)
        print_summary(row)
        if video in self.copies:
            fps = result.video.fps
            try:
                save_annotated(self.copies[video], self.sources[video], result.timeline, self.classifier.labels, fps)
            except (ValueError, OSError, av.FFmpegError) as error:
                self.failures.append(f"{self.copies[video]}, the copy of {video}: {error}")
        if self.results is not None:
            is_table = self.classifier.options.output.suffix == ".csv"
            self.results.append(to_table_row(row) if is_table else row)

    def _fail(self, video: str, reason: str):
        self.failures.append(reason)
        if self.results is not None:
            self.results.append({"video": video, "error": escape_bytes(reason)})

    def finish(self):
        """Puts together what all processes have written, and which videos failed."""
        if self.results is None:
            return
        records = self.results.finish()
        others = (records[video].get("error") for video in self.sources if video in records)
        self.failures += [error for error in others if error and error not in map(escape_bytes, self.failures)]


def plan(options: argparse.Namespace) -> tuple[dict[str, VideoSource], dict[str, Path]]:
    """The videos and where their copies go, if all that is wanted can be had without a loss."""
    if options.output is not None and options.output.suffix not in ResultFile.SUFFIXES:
        raise ValueError(f"--output must end in {', '.join(ResultFile.SUFFIXES)}, got {options.output}.")
    sources, folders = find_sources(options.videos)
    videos = list(sources)
    copies = plan_copies(options.save_video, videos, folders)
    outputs = [*copies.values(), *([] if options.output is None else [options.output])]
    check_outputs(outputs, [*options.videos, *videos, *Path(options.model).glob("*")], overwrite=True)
    goes_on = options.output is not None and options.output.exists()
    check_outputs(copies.values(), overwrite=options.overwrite or goes_on)
    return sources, copies


def open_results(
    classifier: Classifier, copies: dict[str, Path], state: PartialState, stack: contextlib.ExitStack
) -> SharedResults | None:
    """The file to write, or to go on with."""
    output, overwrite = classifier.options.output, classifier.options.overwrite
    if output is None:
        return None
    results = SharedResults(output, classifier.columns, "video", state)
    stack.callback(results.close)
    if state.is_main_process:
        stack.enter_context(one_run(output))
        if begin_or_go_on(output, classifier.settings, overwrite):
            for copy in copies.values():
                remove_unfinished(copy)
        else:
            output.unlink(missing_ok=True)
            results.clear_parts()
    state.wait_for_everyone()
    return results


@command("classify")
def main(argv: list[str] | None = None) -> int:
    """Classifies as the arguments say; returns the exit status."""
    options = make_parser().parse_args(argv)
    with together(), contextlib.ExitStack() as stack:
        state = find_processes(choose_device(options.device))
        if state.num_processes > 1 and options.device is not None:
            choose_shared_device(options.device)
        sources, copies = plan(options)
        state.wait_for_everyone()  # nobody writes while another one still looks
        classifier = Classifier(options, state)
        results = open_results(classifier, copies, state, stack)
        run = Run(classifier, sources, copies, results, state)
        try:
            run.classify_all()
            run.finish()
        except KeyboardInterrupt:
            show("Stopped; the same command goes on." if results else "Stopped.", file=sys.stderr)
            return 130
        finally:
            if run.failures and (results is None or state.is_main_process):
                show(f"{len(run.failures)} of {len(sources)} videos failed:", file=sys.stderr)
                show("\n".join(f"    {failure}" for failure in run.failures), file=sys.stderr)
    # A launcher takes another status for a crash, and says so at length.
    return 1 if run.failures and state.num_processes == 1 else 0


if __name__ == "__main__":
    sys.exit(main())
