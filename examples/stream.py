"""
Classifies a camera while it runs, or a file as if it were one.

    python examples/stream.py MODEL /dev/video0 --input_format v4l2
    python examples/stream.py MODEL video.mp4

To copy and to change. `vtn stream` also writes the predictions, shows the frames and reports a source that stalls.
"""

import argparse
import contextlib

import torch

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.inference.live_source import LiveSource
from vtn_hf.inference.streaming import StreamingClassifier


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Classifies a camera while it runs.")
    parser.add_argument("model", help="a VTN: a folder, or a repository on the Hub")
    parser.add_argument("source", help="device, file or URL")
    parser.add_argument("--input_format", help="kind of device: v4l2, avfoundation, dshow; default: a file")
    parser.add_argument("--predict_every", type=int, default=8, help="frames between two predictions")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)

    model = VTNForVideoClassification.from_pretrained(options.model).to(options.device).eval()
    processor = VTNVideoProcessor.from_pretrained(options.model)
    classifier = StreamingClassifier(model, processor, predict_every=options.predict_every)
    # A thread reads it; what the model is too slow for is dropped, and counted.
    source = LiveSource(options.source, options.input_format)
    with contextlib.suppress(KeyboardInterrupt):
        while (item := source.read(timeout=1)) is not None or not source.has_ended.is_set():
            if item is None:
                continue
            frame, seconds = item  # uint8 (height, width, 3)
            [prediction] = classifier.push([frame], [seconds])
            if prediction is not None:
                score, label = prediction.scores.max(dim=0)
                print(f"{seconds:8.2f} s  {model.config.id2label[int(label)]} {score:.2f}", flush=True)
    source.close()
    print(f"{source.num_read} frames read, {source.num_dropped} dropped.")
    if source.error is not None:
        raise SystemExit(f"The source failed: {source.error}")


if __name__ == "__main__":
    main()
