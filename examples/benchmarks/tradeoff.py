"""
Accuracy against time and multiply-adds per video, as the number of frames at inference varies.

    python examples/benchmarks/tradeoff.py --model "runs/ablations/cells/moment/250 frames/seed0" \\
        --videos runs/ablations/videos/moment/val --ablations docs/reports/ablations.json \\
        --output examples/benchmarks/results/tradeoff.json --figure docs/figures/tradeoff.png

Times are from file to scores, one video after the other, the numbers of frames taking turns; accuracies are those that
`examples/ablate.py` left.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import matplotlib
import torch
from peers import describe_machine
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm


matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402 - the backend comes first

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor  # noqa: E402


FRAME_COUNTS = (8, 16, 32, 64, 128, 250)
# The variants of `examples/ablate.py` that are trained on as many frames.
NAMES = {16: "16 frames", 32: "32 frames", 64: "base", 128: "128 frames", 250: "250 frames"}


def count_multiply_adds(model: VTNForVideoClassification, processor: VTNVideoProcessor, num_frames: int) -> float:
    """Millions for one video, counted on the meta device."""
    size = processor.crop_size["height"], processor.crop_size["width"]
    with torch.device("meta"):
        # In training mode, as a backbone in eval mode looks at the pixels, for repeated frames.
        copy = VTNForVideoClassification(model.config).train()
        pixel_values = torch.empty(1, num_frames, 3, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy(pixel_values)
    return counter.get_total_flops() / 2e6


@torch.inference_mode()
def measure(model: VTNForVideoClassification, processor: VTNVideoProcessor, videos: list[Path]) -> dict[int, float]:
    """Median milliseconds from file to scores, by number of frames."""
    seconds = {num_frames: [] for num_frames in FRAME_COUNTS}
    for video in tqdm(videos, unit="video"):
        for num_frames, times in seconds.items():
            start = time.perf_counter()
            model(**processor(video, num_frames=num_frames, return_tensors="pt"))
            times.append(time.perf_counter() - start)
    # The first video warms up.
    return {num_frames: statistics.median(times[1:]) * 1000 for num_frames, times in seconds.items()}


def plot(results: dict, accuracies: dict, path: Path):
    """One panel over time, one over multiply-adds."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    for name, axes in zip(("ms_per_video", "multiply_adds_m"), panels, strict=True):
        for shift, (task, variants) in enumerate(accuracies.items()):
            curves = {
                "a VTN trained on 250 frames": {n: ("250 frames", f"{n} frames") for n in FRAME_COUNTS},
                "a VTN trained on as many": {n: (variant, "whole video") for n, variant in NAMES.items()},
            }
            for style, (label, points) in zip(("-o", "--s"), curves.items(), strict=True):
                known = {n: variants.get(variant, {}).get(protocol) for n, (variant, protocol) in points.items()}
                known = [(results["frames"][n][name], statistics.mean(top1)) for n, top1 in known.items() if top1]
                if known:
                    axes.plot(*zip(*known, strict=True), style, color=f"C{shift}", label=f"{task}: {label}")
        for num_frames, row in results["frames"].items():
            axes.annotate(f"{num_frames}", (row[name], 0.02), ha="center", fontsize=8, color="gray")
        axes.set(xscale="log", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    machine = results["machine"]
    panels[0].set(
        xlabel=f"ms per video, file to scores ({machine['cpu']}, {machine['threads']} threads); gray: frames",
        ylabel="top-1, mean over seeds",
    )
    panels[1].set(xlabel="million multiply-adds per video; gray: frames")
    panels[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main():
    """Measures, then draws."""
    parser = argparse.ArgumentParser(description="Accuracy against time for different numbers of frames.")
    parser.add_argument("--model", required=True, help="a VTN")
    parser.add_argument("--videos", type=Path, required=True, help="folder with CLASS/VIDEO")
    parser.add_argument("--num_videos", type=int, default=20, help="videos to time")
    parser.add_argument("--ablations", type=Path, required=True, help="ablations.json")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--figure", type=Path, required=True, help="plot to write")
    options = parser.parse_args()
    model = VTNForVideoClassification.from_pretrained(options.model).eval()
    processor = VTNVideoProcessor.from_pretrained(options.model)
    videos = sorted(options.videos.glob("*/*.mp4"))
    milliseconds = measure(model, processor, videos[:: max(1, len(videos) // options.num_videos)])
    results = {
        "machine": describe_machine(),
        "frames": {
            num_frames: {
                "ms_per_video": milliseconds[num_frames],
                "multiply_adds_m": count_multiply_adds(model, processor, num_frames),
            }
            for num_frames in FRAME_COUNTS
        },
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot(results, json.loads(options.ablations.read_text(encoding="utf-8")), options.figure)


if __name__ == "__main__":
    main()
