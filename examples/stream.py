"""
Classifies a camera, or a file as if it were one, while it runs.

    python examples/stream.py MODEL /dev/video0 --input_format v4l2
    python examples/stream.py MODEL video.mp4                      # at the pace at which it was recorded
    python examples/stream.py MODEL video.mp4 --show               # in a window, with matplotlib

A thread reads the source; whatever the model is too slow for is dropped and counted. A source that stalls is waited
for, one that changes its size goes on, and at its end, or at Ctrl-C, the counts are printed.
"""

import argparse
import contextlib
import queue
import sys
import threading
import time

import av
import numpy as np
import torch

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.inference.streaming import StreamingClassifier


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
                start = time.monotonic()
                for frame in container.decode(video=0):
                    if self.has_ended.is_set():
                        return
                    seconds = frame.time or 0.0
                    if input_format is None:
                        time.sleep(max(0.0, start + seconds - time.monotonic()))
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


class Window:
    """Shows frames and the class of the moment with matplotlib."""

    def __init__(self):
        from matplotlib import pyplot

        self._pyplot = pyplot
        _, self._axes = pyplot.subplots()

    def show(self, frame: np.ndarray, text: str):
        self._axes.clear()
        self._axes.imshow(frame)
        self._axes.set(title=text, xticks=[], yticks=[])
        self._pyplot.pause(0.001)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Classify a camera, or a file as if it were one, while it runs.")
    parser.add_argument("model", help="directory or name on the Hub of a VTN with its processor")
    parser.add_argument("source", help="device, file or URL")
    parser.add_argument("--input_format", help="kind of device: v4l2, avfoundation, dshow (default: a file)")
    parser.add_argument("--num_frames", type=int, help="frames to remember (default: the model's)")
    parser.add_argument("--predict_every", type=int, default=8, help="frames between two predictions")
    parser.add_argument("--memory", default="last", help="last: the last frames; all: the stream since its start")
    parser.add_argument("--fps", type=float, help="frame rate of the videos the model was trained on")
    parser.add_argument("--top_k", type=int, default=3, help="classes to show")
    parser.add_argument("--stall_sec", type=float, default=2.0, help="report a source that is silent for so long")
    parser.add_argument("--max_sec", type=float, help="stop after so many seconds")
    parser.add_argument("--show", action="store_true", help="show the frames in a window")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def describe(scores: torch.Tensor, id2label: dict[int, str], top_k: int) -> str:
    """The best classes with their scores."""
    best = scores.topk(min(top_k, len(scores)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return ", ".join(f"{id2label[index]} {score:.2f}" for score, index in pairs)


def watch(source: LiveSource, classifier: StreamingClassifier, options: argparse.Namespace):
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
            text = describe(prediction.scores, classifier.model.config.id2label, options.top_k)
            rate = prediction.num_frames_seen / (time.monotonic() - start)
            print(f"{seconds:8.2f} s  {rate:6.1f} frames/s  {source.num_dropped} dropped  {text}")
        if window is not None:
            window.show(frame, text)


def main() -> int:
    options = parse_arguments()
    model = VTNForVideoClassification.from_pretrained(options.model).to(options.device)
    classifier = StreamingClassifier(
        model,
        VTNVideoProcessor.from_pretrained(options.model),
        num_frames=options.num_frames,
        predict_every=options.predict_every,
        memory=options.memory,
        fps=options.fps,
    )
    source = LiveSource(options.source, options.input_format)
    start = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        watch(source, classifier, options)
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
