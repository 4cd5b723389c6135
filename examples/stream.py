"""
Classifies a camera, or a file as if it were one, while it runs.

    python examples/stream.py MODEL /dev/video0 --input_format v4l2
    python examples/stream.py MODEL video.mp4                      # at the pace at which it was recorded
    python examples/stream.py MODEL video.mp4 --show               # in a window, with matplotlib
    python examples/stream.py MODEL rtsp://camera --output scores.jsonl

A thread reads the source; whatever the model is too slow for is dropped and counted. A source that stalls is waited
for, one that changes its size or whose time jumps goes on, and at its end, or at Ctrl-C, the counts are printed.
`--output` takes each prediction when it is made, as JSON lines, a JSON list or CSV by its ending.
"""

import argparse
import contextlib
import importlib.util
import queue
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import torch
from classify import flatten_scores, list_score_columns, positive, rank

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.inference.streaming import StreamingClassifier
from vtn_hf.outputs import check_outputs
from vtn_hf.results import ResultFile


# A longer pause between two frames is taken for a jump of the source's clock.
MAX_GAP_SEC = 3600


class LiveSource:
    """
    Reads a source in a thread and keeps the newest frames only.

    Args:
        name: Path, URL or device.
        input_format: FFmpeg's name of the device's kind: `v4l2`, `avfoundation`, `dshow`; `None` for files, which are
            read at their own pace.
        size: Frames that may wait.
    """

    def __init__(self, name: str, input_format: str | None = None, size: int = 2):
        self.num_read = self.num_dropped = self.num_stalls = 0
        self.error: Exception | None = None
        self.has_ended = threading.Event()
        self._frames: queue.Queue = queue.Queue(size)
        self._thread = threading.Thread(target=self._run, args=(name, input_format), daemon=True)
        self._thread.start()

    def _run(self, name: str, input_format: str | None):
        try:
            with av.open(name, format=input_format) as container:
                start, clock = None, Clock(container.streams.video[0].average_rate)
                for frame in container.decode(video=0):
                    seconds = clock.read(frame.time)
                    start = time.monotonic() - seconds if start is None else start
                    delay = 0.0 if input_format is not None else start + seconds - time.monotonic()
                    if self.has_ended.wait(max(0.0, delay)):
                        return
                    self._put(frame.to_ndarray(format="rgb24"), seconds)
        except (av.FFmpegError, OSError) as error:
            self.error = error
        finally:
            self.has_ended.set()

    def _put(self, frame: np.ndarray, seconds: float):
        self.num_read += 1
        while True:
            try:
                self._frames.put_nowait((frame, seconds))
                return
            except queue.Full:
                try:
                    self._frames.get_nowait()
                    self.num_dropped += 1
                except queue.Empty:
                    pass

    def read(self, timeout: float) -> tuple[np.ndarray, float] | None:
        """The next frame and its time in seconds, or `None` if there is none within `timeout` seconds."""
        try:
            return self._frames.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self):
        self.has_ended.set()
        self._thread.join(timeout=5)


class Clock:
    """
    Makes time go on where timestamps start again, jump or are missing.

    Args:
        rate: Frames per second, if known.
    """

    def __init__(self, rate: float | None):
        self._step = 1 / float(rate or 25)
        self._timestamp = self._seconds = 0.0

    def read(self, timestamp: float | None) -> float:
        """Seconds of the next frame, from its timestamp in seconds."""
        if timestamp is None:
            timestamp = self._timestamp + self._step
        gap = timestamp - self._timestamp
        self._seconds += gap if 0 <= gap <= MAX_GAP_SEC else self._step
        self._timestamp = timestamp
        return self._seconds


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


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "stream.py", description="Classify a camera, or a file as if it were one, while it runs."
    )
    parser.add_argument("model", help="directory or name on the Hub of a VTN with its processor")
    parser.add_argument("source", help="device, file or URL")
    parser.add_argument("--input_format", help="kind of device: v4l2, avfoundation, dshow (default: a file)")
    parser.add_argument("--num_frames", type=int, help="frames to remember (default: the model's)")
    parser.add_argument("--predict_every", type=int, default=8, help="frames between two predictions")
    parser.add_argument("--memory", default="last", help="last: the last frames; all: the stream since its start")
    parser.add_argument("--fps", type=float, help="frame rate of the videos the model was trained on")
    parser.add_argument("--top_k", type=positive(int), default=3, help="classes to show and write")
    parser.add_argument("--stall_sec", type=float, default=2.0, help="report a source that is silent for so long")
    parser.add_argument("--max_sec", type=float, help="stop after so many seconds")
    parser.add_argument("--show", action="store_true", help="show the frames in a window")
    parser.add_argument("--output", type=Path, help="file for the predictions, .jsonl, .json or .csv")
    parser.add_argument("--overwrite", action="store_true", help="replace the output that is there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def make_classifier(options: argparse.Namespace) -> StreamingClassifier:
    """The model, if all that is wanted can be had without a loss."""
    if options.show and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--show needs matplotlib: pip install matplotlib")
    if options.output is not None:
        if options.output.suffix not in ResultFile.SUFFIXES:
            raise ValueError(f"--output must end in {', '.join(ResultFile.SUFFIXES)}, got {options.output}.")
        check_outputs([options.output], [options.source, *Path(options.model).glob("*")], options.overwrite)
    return StreamingClassifier(
        VTNForVideoClassification.from_pretrained(options.model).to(options.device),
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
    while options.max_sec is None or time.monotonic() - start < options.max_sec:
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


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(argv)
    try:
        classifier = make_classifier(options)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
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
        f"{counts['size_changes']} changes of size, {source.num_stalls} stalls."
    )
    if source.error is not None:
        print(f"The source failed: {source.error}", file=sys.stderr)
    return 1 if source.error is not None else 0


if __name__ == "__main__":
    sys.exit(main())
