"""
VTN beside the video models of transformers on one machine: time, multiply-adds and memory, each under the test
protocol that its published accuracy was measured with. All weights are random: accuracies are quoted, not measured,
and a VTN of fewer frames or of another backbone has none, but a time. EfficientNet-Lite0 needs timm and OpenVINO.

    python examples/benchmarks/peers.py --output examples/benchmarks/results/peers.json --figure docs/figures/peers.png

The models take turns in one process, a clip and a training step each per round, so that whatever else the machine does
hits all of them. Rounds are added to those that the output holds already; `--num_rounds 0` only reports.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VivitConfig,
    VivitForVideoClassification,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
)
from transformers.modeling_utils import PreTrainedModel

from vtn_hf import VTNConfig, VTNForVideoClassification, optimize
from vtn_hf.configs import find_config


VTN_CONFIG = find_config("models", "vit_b_vtn")


@dataclass(frozen=True)
class Model:
    """
    A model and its published figures on Kinetics-400.

    Args:
        build: Makes it, with random weights.
        num_frames: Frames of a clip at test.
        num_train_frames: Frames of a clip in training.
        image_size: Height and width.
        num_views: Clips times crops of a video, whose scores are averaged.
        top1: Published accuracy in per cent, if there is one.
        source: Where that is published.
        trains_backbone: Whether training changes all weights, or those of the head (a probe) only.
    """

    build: Callable[[], PreTrainedModel]
    num_frames: int
    num_train_frames: int
    image_size: int
    num_views: int
    top1: float | None
    source: str
    trains_backbone: bool = True


def build_vtn() -> PreTrainedModel:
    return optimize(VTNForVideoClassification(VTNConfig.from_pretrained(VTN_CONFIG, num_labels=400)))


def build_lite0() -> PreTrainedModel:
    backbone = {"model_type": "timm_wrapper", "architecture": "efficientnet_lite0"}
    model = VTNForVideoClassification(VTNConfig(backbone_config=backbone, num_labels=400)).eval()
    return optimize(model, engine="openvino")


# What it took of moment and order on average, whose videos are as long as those of Kinetics (`anytime.py`).
NUM_ANYTIME_FRAMES = 33
MODELS = {
    "ViT-B-VTN": Model(build_vtn, 250, 16, 224, 1, 78.6, "arXiv 2102.00719, as later papers quote it"),
    "ViT-B-VTN, as many as it takes": Model(build_vtn, NUM_ANYTIME_FRAMES, 16, 224, 1, None, "not measured"),
    "EfficientNet-Lite0-VTN": Model(build_lite0, 250, 16, 224, 1, None, "not measured"),
    "TimeSformer": Model(
        lambda: TimesformerForVideoClassification(TimesformerConfig(num_labels=400)),
        *(8, 8, 224, 3, 77.9),
        "README of facebookresearch/TimeSformer; 1 clip, 3 crops",
    ),
    "VideoMAE ViT-B": Model(
        lambda: VideoMAEForVideoClassification(VideoMAEConfig(num_labels=400)),
        *(16, 16, 224, 15, 80.9),
        "MODEL_ZOO.md of MCG-NJU/VideoMAE, 1600 epochs; 5 clips, 3 crops",
    ),
    "ViViT-B/16x2": Model(
        lambda: VivitForVideoClassification(VivitConfig(num_labels=400)),
        *(32, 32, 224, 12, 79.9),
        "README of scenic/projects/vivit; 4 clips, 3 crops",
    ),
    "V-JEPA 2 ViT-L": Model(
        lambda: VJEPA2ForVideoClassification(VJEPA2Config(num_labels=400, frames_per_clip=16)),
        *(16, 16, 256, 24, 85.1),
        "arXiv 2506.09985, table 4 (recalled, not re-read); 8 clips, 3 crops, a probe on the frozen encoder",
        trains_backbone=False,
    ),
}


def make_clip(name: str, num_frames: int) -> dict[str, torch.Tensor]:
    """One clip of noise, under the name that the model knows it by."""
    size = MODELS[name].image_size
    argument = "pixel_values_videos" if name.startswith("V-JEPA") else "pixel_values"
    return {argument: torch.rand(1, num_frames, 3, size, size)}


def time_clip(name: str, model: PreTrainedModel) -> float:
    """Seconds for one clip of the test protocol."""
    clip = make_clip(name, MODELS[name].num_frames)
    start = time.perf_counter()
    with torch.inference_mode():
        model.eval()(**clip)
    return time.perf_counter() - start


def time_step(name: str, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> float:
    """Seconds for one training step on one clip."""
    clip = make_clip(name, MODELS[name].num_train_frames)
    model.train()
    start = time.perf_counter()
    model(**clip, labels=torch.tensor([0])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def make_optimizer(name: str, model: PreTrainedModel) -> torch.optim.Optimizer:
    """SGD as in the paper, on what the model trains."""
    if not MODELS[name].trains_backbone:
        model.base_model.requires_grad_(False)
        model.classifier.requires_grad_(True)
        model.pooler.requires_grad_(True)
    return torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3, momentum=0.9)


def count(name: str) -> dict[str, float]:
    """Millions of parameters that a clip uses, and billions of multiply-adds per clip, counted on the meta device."""
    with torch.device("meta"):
        # In training mode, as a VTN in eval mode looks at the pixels, for repeated frames.
        model = MODELS[name].build().train()
        clip = make_clip(name, MODELS[name].num_frames)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**clip)
    parameters = sum(p.numel() for key, p in model.named_parameters() if "predictor" not in key)
    return {"parameters_m": parameters / 1e6, "multiply_adds_g_per_clip": counter.get_total_flops() / 2e9}


def measure_memory_apart(name: str) -> float:
    """Peak growth of the memory over one clip, in MB, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_memory, name).result()


def measure_memory(name: str) -> float:
    """Peak growth of the memory of this process over one clip, in MB; on Linux."""
    model = MODELS[name].build().eval()
    clip = make_clip(name, MODELS[name].num_frames)
    before = read_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    with torch.inference_mode():
        model(**clip)
    return (read_status("VmHWM") - before) / 1000


def read_status(field: str) -> int:
    """A field of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def run_rounds(results: dict, num_rounds: int, save: Callable[[], None]):
    """Adds rounds of timings to the results, and saves after each."""
    models = {name: MODELS[name].build() for name in MODELS}
    optimizers = {name: make_optimizer(name, model) for name, model in models.items()}
    for number in range(num_rounds):
        # Another order each round, so that nobody always follows the same neighbour.
        for name in sorted(MODELS, key=lambda name: (list(MODELS).index(name) + number) % len(MODELS)):
            results["models"][name].setdefault("clip_sec", []).append(time_clip(name, models[name]))
            step_sec = time_step(name, models[name], optimizers[name])
            results["models"][name].setdefault("step_sec", []).append(step_sec)
        save()


def describe_machine() -> dict[str, str | int]:
    """What the timings depend on."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": cpus[0].split(":")[1].strip() if cpus else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def print_table(results: dict):
    """The table in markdown; the last column is relative to VTN."""
    print(
        "| model | views × frames | parameters (M) | s per clip | s per video | G multiply-adds per video "
        "| memory (MB) | training step (s) | published top-1 | time / VTN |"
    )
    print("| --- " * 10 + "|")
    vtn_sec = None
    for name, model in MODELS.items():
        row = results["models"][name]
        clip_sec, step_sec = statistics.median(row["clip_sec"]), statistics.median(row["step_sec"])
        video_sec = clip_sec * model.num_views
        vtn_sec = vtn_sec or video_sec
        print(
            f"| {name} | {model.num_views} × {model.num_frames} | {row['parameters_m']:.0f} | {clip_sec:.2f} | "
            f"{video_sec:.1f} | {row['multiply_adds_g_per_clip'] * model.num_views:,.0f} | {row['memory_mb']:,.0f} | "
            f"{step_sec:.2f} | {model.top1 or '–'} | {video_sec / vtn_sec:.2f} |"
        )


def plot(results: dict, path: Path):
    """Published accuracy against measured time per video."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    heights = itertools.count(86, -1.2)  # of the names of what has no accuracy, one below the other
    for name, model in MODELS.items():
        video_sec = statistics.median(results["models"][name]["clip_sec"]) * model.num_views
        if model.top1 is None:
            axes.axvline(video_sec, linestyle="dotted", color="grey")
        else:
            axes.plot(video_sec, model.top1, marker="o" if name.endswith("VTN") else "s", linestyle="none")
        axes.annotate(
            f"{name}\n{model.num_views} × {model.num_frames} frames",
            (video_sec, model.top1 or next(heights)),
            textcoords="offset points",
            xytext=(6, 6),
            fontsize=8,
        )
    machine = results["machine"]
    axes.set(
        xscale="log",
        xlabel=f"measured seconds per video ({machine['cpu']}, {machine['threads']} threads, random weights)",
        ylabel="published top-1 on Kinetics-400 (%)",
        ylim=(77, 87),
    )
    axes.margins(x=0.25)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main():
    """Measures, prints the table and writes JSON and figure."""
    parser = argparse.ArgumentParser(description="VTN beside the video models of transformers.")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, or to add rounds to")
    parser.add_argument("--figure", type=Path, help="plot to write")
    parser.add_argument("--num_rounds", type=int, default=3, help="rounds to add")
    options = parser.parse_args()
    results = {"machine": describe_machine(), "models": {name: {} for name in MODELS}}
    if options.output.exists():
        earlier = json.loads(options.output.read_text(encoding="utf-8"))
        if earlier["machine"] != results["machine"]:
            raise ValueError(f"{options.output} holds timings of {earlier['machine']}, this is {results['machine']}.")
        for name, row in earlier["models"].items():
            num_frames, earlier_num_frames = MODELS[name].num_frames, row.get("num_frames")
            if earlier_num_frames != num_frames:
                found = f"{options.output} holds timings of {name} on {earlier_num_frames} frames"
                raise ValueError(f"{found}, this is {num_frames}; choose another --output.")
        results["models"] |= earlier["models"]

    def save():
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    for name, row in results["models"].items():
        model = MODELS[name]
        row |= {"num_views": model.num_views, "num_frames": model.num_frames}
        row |= {"published_top1": model.top1, "source": model.source}
        if "memory_mb" not in row:
            row |= count(name) | {"memory_mb": measure_memory_apart(name)}
            save()
    if options.num_rounds:
        run_rounds(results, options.num_rounds, save)
    if all("clip_sec" in row for row in results["models"].values()):
        print_table(results)
        if options.figure is not None:
            plot(results, options.figure)


if __name__ == "__main__":
    main()
