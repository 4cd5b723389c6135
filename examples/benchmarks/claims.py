"""
The three claims of the paper beside the video models of today: the cost of training, the time of inference and the
multiply-adds per video, each model under its own published recipe and test protocol.

    python examples/benchmarks/claims.py --output examples/benchmarks/results/claims.json
    python examples/benchmarks/claims.py --output examples/benchmarks/results/claims.json --num_rounds 1

The first counts and quotes; the second adds a round of timings, which takes minutes and a machine that does nothing
else. All weights are random; accuracies are those that the weights' metadata of torchvision or the sources in
`peers.py` state.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from peers import MODELS as PEERS
from peers import describe_machine, make_clip
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model, get_model_weights
from tqdm import tqdm


@dataclass(frozen=True)
class Recipe:
    """
    How a model is trained on Kinetics-400.

    Args:
        num_epochs: Passes over the videos.
        num_clips: Clips of a video in each pass.
        source: Where that is published.
    """

    num_epochs: int
    num_clips: int
    source: str


# Of S3D none is published with the weights.
RECIPES = {
    "ViT-B-VTN": Recipe(25, 1, "configs/Kinetics/VIT_B_VTN.yaml of the original"),
    "TimeSformer": Recipe(15, 1, "configs/Kinetics/TimeSformer_divST_8x32_224.yaml of facebookresearch/TimeSformer"),
    "VideoMAE ViT-B": Recipe(
        75, 2, "scripts/kinetics/…_epoch_1600/finetune.sh of MCG-NJU/VideoMAE; without 1600 epochs of pretraining"
    ),
    "ViViT-B/16x2": Recipe(30, 1, "arXiv 2103.15691 (recalled)"),
    "V-JEPA 2 ViT-L": Recipe(20, 1, "arXiv 2506.09985 (recalled); a probe, beside the pretraining"),
    "R(2+1)D-18": Recipe(45, 5, "torchvision/models/video/README.md of pytorch/vision"),
    "MViTv2-S": Recipe(200, 2, "configs/Kinetics/MVITv2_S_16x4.yaml of facebookresearch/SlowFast"),
    "Swin3D-B": Recipe(30, 1, "arXiv 2106.13230 (recalled)"),
}


@dataclass(frozen=True)
class Model:
    """
    A model under its test protocol.

    Args:
        build: Makes it, with random weights.
        make_clip: Makes its arguments for a clip of so many frames.
        num_frames, num_train_frames: Frames of a clip, at the test and in training.
        num_views: Clips times crops of a video at the test.
        top1: Published accuracy in per cent.
        protocol: Where that is published, or how it was measured.
        published_ops: Billions of multiply-adds of a clip as published.
        trains_backbone: Whether training changes all weights, or those of the head (a probe) only.
    """

    build: Callable[[], nn.Module]
    make_clip: Callable[[int], dict[str, torch.Tensor]]
    num_frames: int
    num_train_frames: int
    num_views: int
    top1: float
    protocol: str
    published_ops: float | None = None
    trains_backbone: bool = True


def adopt(name: str) -> Model:
    """A model of `peers.py`."""
    peer = PEERS[name]
    frames = (peer.num_frames, peer.num_train_frames)
    return Model(
        peer.build,
        partial(make_clip, name),
        *frames,
        peer.num_views,
        peer.top1,
        peer.source,
        trains_backbone=peer.trains_backbone,
    )


def read_torchvision(architecture: str, num_frames: int, size: int, num_views: int) -> Model:
    """A 3D network of torchvision; what the metadata of its weights states is quoted."""
    meta = get_model_weights(architecture).DEFAULT.meta if architecture != "swin3d_b" else _SWIN.meta
    return Model(
        partial(get_model, architecture, weights=None),
        lambda frames: {"x": torch.rand(1, 3, frames, size, size)},
        num_frames,
        num_frames,
        num_views,
        meta["_metrics"]["Kinetics-400"]["acc@1"],
        " ".join(meta["_docs"].split()),
        meta["_ops"],
    )


# Of two, those that begin with ImageNet-22k are the default.
_SWIN = get_model_weights("swin3d_b").KINETICS400_V1
MODELS = {
    **{name: adopt(name) for name, peer in PEERS.items() if peer.top1 is not None},
    "R(2+1)D-18": read_torchvision("r2plus1d_18", 16, 112, 5),
    "S3D": read_torchvision("s3d", 128, 224, 1),
    "MViTv2-S": read_torchvision("mvit_v2_s", 16, 224, 5),
    "Swin3D-B": read_torchvision("swin3d_b", 32, 224, 12),
}


def count(model: Model) -> dict[str, float]:
    """Millions of parameters, and billions of multiply-adds of a clip at the test and in training (forward)."""
    with torch.device("meta"):
        # In training mode, as a VTN in eval mode looks at the pixels, for repeated frames.
        network = model.build().train()
        clips = {"test": model.make_clip(model.num_frames), "train": model.make_clip(model.num_train_frames)}
    # That of V-JEPA 2 is for its pretraining.
    sizes = [each.numel() for name, each in network.named_parameters() if "predictor" not in name]
    counted = {"parameters_m": sum(sizes) / 1e6}
    for name, clip in clips.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(**clip)
        counted[f"multiply_adds_g_per_{name}_clip"] = counter.get_total_flops() / 2e9
    return counted


def time_clip(network: nn.Module, model: Model) -> float:
    """Seconds for one clip of the test protocol."""
    clip = model.make_clip(model.num_frames)
    start = time.perf_counter()
    with torch.inference_mode():
        network.eval()(**clip)
    return time.perf_counter() - start


def time_step(network: nn.Module, model: Model) -> float:
    """Seconds for the forward and backward pass of one clip of the training."""
    clip = model.make_clip(model.num_train_frames)
    if not model.trains_backbone:
        network.base_model.requires_grad_(False)
        network.pooler.requires_grad_(True)
    start = time.perf_counter()
    outputs = network.train()(**clip)
    getattr(outputs, "logits", outputs).sum().backward()
    seconds = time.perf_counter() - start
    network.zero_grad()
    return seconds


def summarize(name: str, row: dict) -> dict[str, float]:
    """What the paper claims about: of a video at the test, and of the training for each of its videos."""
    model, recipe = MODELS[name], RECIPES.get(name)
    num_clips = math.nan if recipe is None else recipe.num_epochs * recipe.num_clips
    # Forward and, where there is one, twice as much backward.
    num_passes = 3 if model.trains_backbone else 1
    figures = {
        "multiply_adds_g_per_video": row["multiply_adds_g_per_test_clip"] * model.num_views,
        "training_multiply_adds_t_per_video": num_passes * num_clips * row["multiply_adds_g_per_train_clip"] / 1e3,
    }
    if "clip_sec" in row:
        figures["sec_per_video"] = statistics.median(row["clip_sec"]) * model.num_views
        figures["training_sec_per_video"] = statistics.median(row["step_sec"]) * num_clips
    return figures


def print_table(rows: dict[str, dict]):
    """In markdown; a ratio is that of the model to VTN."""
    figures = {name: summarize(name, row) for name, row in rows.items()}
    names = list(figures["ViT-B-VTN"])
    heads = ("model", "top-1", "views × frames", "parameters (M)", "epochs × clips", *names)
    print("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|")
    for name, row in rows.items():
        model, recipe = MODELS[name], RECIPES.get(name)
        cells = [name, f"{model.top1:.1f}", f"{model.num_views} × {model.num_frames}", f"{row['parameters_m']:.0f}"]
        cells.append("–" if recipe is None else f"{recipe.num_epochs} × {recipe.num_clips}")
        for figure in names:
            ratio = figures[name][figure] / figures["ViT-B-VTN"][figure]
            cells.append("–" if math.isnan(ratio) else f"{figures[name][figure]:,.4g} ({ratio:.2f} ×)")
        print("| " + " | ".join(cells) + " |")


def main(argv: list[str] | None = None):
    """Counts what is not counted yet, adds rounds of timings, and prints the table."""
    parser = argparse.ArgumentParser(description="The paper's three claims, today.")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, or to add rounds to")
    parser.add_argument("--num_rounds", type=int, default=0, help="rounds of timings to add")
    options = parser.parse_args(argv)
    machine = describe_machine()
    results = {"machine": machine, "models": {name: {} for name in MODELS}}
    if options.output.exists():
        results = json.loads(options.output.read_text(encoding="utf-8"))
        if options.num_rounds:
            are_timed = any("clip_sec" in row for row in results["models"].values())
            if are_timed and results["machine"] != machine:
                raise ValueError(f"{options.output} holds timings of {results['machine']}, this is {machine}.")
            results["machine"] = machine

    def save():
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    for name, row in results["models"].items():
        model = MODELS[name]
        row |= {"top1": model.top1, "protocol": model.protocol, "published_ops_g": model.published_ops}
        row |= {"training": RECIPES[name].source if name in RECIPES else None}
        if "parameters_m" not in row:
            row |= count(model)
        save()
    for number in range(options.num_rounds):
        for name, row in tqdm(results["models"].items(), desc=f"round {number + 1}", unit="model"):
            # One at a time, as all of them together need much memory.
            network = MODELS[name].build()
            row.setdefault("clip_sec", []).append(time_clip(network, MODELS[name]))
            row.setdefault("step_sec", []).append(time_step(network, MODELS[name]))
            save()
    print_table(results["models"])


if __name__ == "__main__":
    main()
