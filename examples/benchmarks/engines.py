"""
A video from its file to scores, by each engine that a CPU has: seconds, in units of plain eager PyTorch on eight
frames at a time, and what differs. Random weights; what precisions do to accuracy, `vtn evaluate --engine openvino
--dtype bfloat16` says.

Each call measures one round of one backbone and adds it to the results, so that no call takes long; `table` prints
the medians of all rounds. EfficientNet-Lite0 needs timm, OpenVINO the extra of its name.

    python examples/benchmarks/engines.py EfficientNet-Lite0
    python examples/benchmarks/engines.py ResNet-50
    python examples/benchmarks/engines.py ViT-B
    python examples/benchmarks/engines.py table
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from original import add_round, measure_seconds
from whole_video import CONVOLUTIONAL, RESULTS, draw_pictures, make_model, write_video

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor, optimize
from vtn_hf.inference.whole_video import VideoClassification, classify_video


PLAIN = "plain PyTorch"
UNIT, UNIT_FRAMES = "plain PyTorch, 8 frames per call", 8
# Of `optimize`, by what the table calls it.
ENGINES = {
    "optimised PyTorch": {},
    "int8": {"int8": True},
    "OpenVINO, float32": {"engine": "openvino"},
    "OpenVINO, bfloat16": {"engine": "openvino", "dtype": "bfloat16"},
}
BACKBONES = ("EfficientNet-Lite0", "ResNet-50", "ViT-B")


def make_models(name: str) -> dict[str, VTNForVideoClassification]:
    plain = make_model(name)
    # A transformer gets eight frames per call anyway.
    plain_models = {UNIT: plain, PLAIN: plain} if name in CONVOLUTIONAL else {UNIT: plain}
    engines = {key: each for key, each in ENGINES.items() if key != "int8" or name not in CONVOLUTIONAL}
    return plain_models | {key: optimize(plain, **settings) for key, settings in engines.items()}


def compare_engines(name: str, num_frames: int) -> dict[str, float]:
    """One round of a backbone: all engines, one after the other, on the same file."""
    models, processor = make_models(name), VTNVideoProcessor()
    results: dict[str, VideoClassification] = {}
    round: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder, "video.mp4"), draw_pictures(num_frames, 360, 480))
        for key, model in models.items():
            model.config.frames_per_chunk = UNIT_FRAMES if key == UNIT else "auto"
            # All of it once: the first of a process takes half as long again, until its memory has been asked for.
            classify_video(model, processor, path, optimize=False)

            def run(key=key, model=model):
                results[key] = classify_video(model, processor, path, optimize=False)

            round[f"{key}, s"] = measure_seconds(run)
    for key, result in results.items():
        if key != UNIT:
            cosine = torch.cosine_similarity(result.video.features, results[UNIT].video.features, dim=-1)
            round[f"{key}, times as fast"] = round[f"{UNIT}, s"] / round[f"{key}, s"]
            round[f"{key}, logits differ by"] = (result.logits - results[UNIT].logits).abs().max().item()
            round[f"{key}, least cosine"] = cosine.min().item()
    return round


def print_table():
    """The medians, in markdown."""
    print("| backbone | engine | seconds | times as fast | logits differ by | least cosine of features | rounds |")
    print("| --- " * 7 + "|")
    for name in BACKBONES:
        path = find_results(name)
        if not path.exists():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        for key in (UNIT, PLAIN, *ENGINES):
            if f"{key}, s" in record["medians"]:
                seconds, *others = (
                    record["medians"].get(f"{key}, {what}")
                    for what in ("s", "times as fast", "logits differ by", "least cosine")
                )
                cells = ("–" if other is None else f"{other:.3g}" for other in others)
                print(f"| {name} | {key} | {seconds:.2f} | {' | '.join(cells)} | {len(record['rounds'])} |")


def find_results(name: str) -> Path:
    return RESULTS / f"engines_{name}.json"


def main():
    parser = argparse.ArgumentParser(description="From a file to scores by each engine.")
    parser.add_argument("part", choices=[*BACKBONES, "table"], help="backbone to measure a round of")
    parser.add_argument("--num_frames", type=int, default=250, help="frames of the video")
    options = parser.parse_args()
    if options.part == "table":
        print_table()
        return
    for name, value in add_round(
        find_results(options.part), compare_engines(options.part, options.num_frames)
    ).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
