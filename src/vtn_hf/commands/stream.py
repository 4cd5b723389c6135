"""
Classifies a camera, or a file as if it were one, while it runs.

    vtn stream --model RUN /dev/video0 --input_format v4l2
    vtn stream --model RUN video.mp4                      # at the pace at which it was recorded
    vtn stream --model RUN video.mp4 --show               # in a window, with matplotlib
    vtn stream --model RUN rtsp://camera --output scores.jsonl

A thread reads the source; whatever the model is too slow for is dropped and counted. A source that stalls is waited
for, a network stream (RTSP, HLS) that fails is opened again, which is counted, too; one that changes its size or whose
time jumps goes on. At its end, or at Ctrl-C, the counts are printed.
`--output` takes each prediction when it is made, as JSON lines, a JSON list or CSV by its ending.
"""

import argparse
import contextlib
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np

from .. import VTNVideoProcessor
from ..inference.live_source import LiveSource
from ..inference.streaming import StreamingClassifier
from ..outputs import check_outputs
from ..results import ResultFile
from .arguments import add_shared, choose_device, load_model, positive, speed_up
from .console import CommandParser, command
from .scores import flatten_scores, list_score_columns, rank


class Window:
    """Shows frames and the class of the moment with matplotlib."""

    def __init__(self):
        from matplotlib import pyplot

        self._pyplot = pyplot
        _, self._axes = pyplot.subplots()

    def show(self, frame: np.ndarray, text: str):
        self._axes.clear()
        self._axes.imshow(frame)
        self._axes.set(xticks=[], yticks=[])
        self._axes.set_title(text, parse_math=False)  # a `$` in a name is a dollar
        self._pyplot.pause(0.001)


def make_parser() -> CommandParser:
    parser = CommandParser("stream", __doc__)
    parser.add_argument("source", help="device, file or URL")
    add_shared(parser, "model", required=True)
    parser.add_argument("--input_format", help="kind of device: v4l2, avfoundation, dshow; default: a file")
    add_shared(parser, "output", help="predictions, .jsonl, .json or .csv")
    add_shared(parser, "overwrite")
    parser.add_argument("--top_k", type=positive(int), default=3, help="classes to show and write")
    parser.add_argument("--show", action="store_true", help="show the frames in a window; needs matplotlib")
    parser.add_argument("--stop_after_sec", type=positive(float), help="seconds to run; default: to the end")
    parser.add_argument(
        "--stall_sec", type=positive(float), default=2.0, help="report a source that is silent so long"
    )
    frames = parser.add_argument_group("frames")
    add_shared(frames, "num_frames", default_is="the model's")
    add_shared(frames, "fps", default_is="the source's")
    frames.add_argument("--predict_every", type=positive(int), default=8, help="frames between two predictions")
    frames.add_argument("--memory", default="last", help="last: the last frames; all: the stream since its start")
    compute = parser.add_argument_group("how to compute")
    for name in ("device", "engine", "dtype"):
        add_shared(compute, name)
    return parser


def make_classifier(options: argparse.Namespace) -> StreamingClassifier:
    """The model, if all that is wanted can be had without a loss."""
    if options.show and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--show needs matplotlib: pip install matplotlib")
    if options.output is not None:
        if options.output.suffix not in ResultFile.SUFFIXES:
            raise ValueError(f"--output must end in {', '.join(ResultFile.SUFFIXES)}, got {options.output}.")
        check_outputs([options.output], [options.source, *Path(options.model).glob("*")], options.overwrite)
    model = load_model(options.model).to(choose_device(options.device))
    return StreamingClassifier(
        speed_up(model, options.engine, options.dtype),
        VTNVideoProcessor.from_pretrained(options.model),
        num_frames=options.num_frames,
        predict_every=options.predict_every,
        memory=options.memory,
        fps=options.fps,
    )


def open_results(options: argparse.Namespace, num_labels: int) -> ResultFile:
    options.output.unlink(missing_ok=True)
    columns = list_score_columns(min(options.top_k, num_labels))
    return ResultFile(options.output, ["start_sec", "end_sec", "frames_seen", *columns])


def watch(
    source: LiveSource, classifier: StreamingClassifier, results: ResultFile | None, options: argparse.Namespace
):
    """Classifies until the source or the time is over."""
    window = Window() if options.show else None
    start, text = time.monotonic(), ""
    while options.stop_after_sec is None or time.monotonic() - start < options.stop_after_sec:
        has_ended = source.has_ended.is_set()
        item = source.read(timeout=0.0 if has_ended else options.stall_sec)
        if item is None:
            if has_ended:
                break
            if not source.has_ended.is_set():
                source.num_stalls += 1
                print(f"The source has been silent for {options.stall_sec:g} s; waiting.")
            continue
        frame, seconds = item
        [prediction] = classifier.push([frame], [seconds])
        if prediction is not None:
            scores = rank(prediction.scores, classifier.model.config.id2label, options.top_k)
            text = ", ".join(f"{best['label']} {best['score']:.2f}" for best in scores)
            rate = prediction.num_frames_seen / (time.monotonic() - start)
            print(f"{seconds:8.2f} s  {rate:6.1f} frames/s  {source.num_dropped} dropped  {text}", flush=True)
            if results is not None:
                row = {
                    "start_sec": prediction.start_sec,
                    "end_sec": seconds,
                    "frames_seen": prediction.num_frames_seen,
                }
                results.append(row | (flatten_scores(scores) if results.is_table else {"scores": scores}))
        if window is not None:
            window.show(frame, text)


@command("stream")
def main(argv: list[str] | None = None) -> int:
    """Watches until the source ends or Ctrl-C; returns the exit status."""
    options = make_parser().parse_args(argv)
    classifier = make_classifier(options)
    source = LiveSource(options.source, options.input_format)
    start = time.monotonic()
    results = open_results(options, classifier.model.config.num_labels) if options.output is not None else None
    with contextlib.suppress(KeyboardInterrupt), results or contextlib.nullcontext():
        watch(source, classifier, results, options)
    source.close()
    counts = classifier.get_statistics()
    print(
        f"{source.num_read} frames read, {source.num_dropped} dropped, {counts['seen']} classified at "
        f"{counts['seen'] / (time.monotonic() - start):.1f} frames/s, {counts['repeated']} repeats, "
        f"{counts['size_changes']} changes of size, {source.num_stalls} stalls, {source.num_reconnects} reconnections."
    )
    if source.error is not None:
        print(f"The source failed: {source.error}", file=sys.stderr)
    return 1 if source.error is not None else 0


if __name__ == "__main__":
    sys.exit(main())
