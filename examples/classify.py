"""
Classifies videos of any length, each in one pass, and tells which class is seen when.

    python examples/classify.py MODEL VIDEOS … --output scores.jsonl

To copy and to change. `vtn classify` also goes on where it was stopped, takes URLs and globs, and writes CSV files and
annotated copies.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import torch

from vtn_hf import VideoDecodeError, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.listing import PassedOver, find_videos
from vtn_hf.inference.whole_video import Segment, classify_video


def tell_when(timeline: list[Segment], labels: dict[int, str]) -> list[dict]:
    """From when to when a class is the best one."""
    stretches = []
    for label, parts in itertools.groupby(timeline, key=lambda part: labels[int(part.scores.argmax())]):
        parts = list(parts)
        stretches.append({"label": label, "start_sec": parts[0].start_sec, "end_sec": parts[-1].end_sec})
    return stretches


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Classifies videos of any length.")
    parser.add_argument("model", help="a VTN: a folder, or a repository on the Hub")
    parser.add_argument("videos", nargs="+", type=Path, help="files and folders")
    parser.add_argument("--fps", type=float, help="frames per second to look at; default: every frame")
    parser.add_argument("--output", type=Path, help="file for the results, .jsonl")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)

    model = VTNForVideoClassification.from_pretrained(options.model).to(options.device).eval()
    processor = VTNVideoProcessor.from_pretrained(options.model)
    labels = model.config.id2label
    rows, num_failed = [], 0
    for place in options.videos:
        for video in find_videos(place, PassedOver()) if place.is_dir() else [place]:
            try:
                result = classify_video(model, processor, video, fps=options.fps)
            except VideoDecodeError as error:
                print(error, file=sys.stderr)
                num_failed += 1
                continue
            best = result.scores.topk(min(5, len(labels)))
            scores = [
                {"label": labels[label], "score": score}
                for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            rows.append({"video": str(video), "scores": scores, "timeline": tell_when(result.timeline, labels)})
            print(f"{video}: " + ", ".join(f"{each['label']} {each['score']:.3f}" for each in scores))
    if options.output is not None:
        options.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
