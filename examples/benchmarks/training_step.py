"""
A training step of ViT-B-VTN on 16 frames on a CPU, without and with activation checkpointing per chunk, against the
original's computation: time and memory. Each call measures one round and adds it to the results.

    python examples/benchmarks/training_step.py speed
    python examples/benchmarks/training_step.py memory
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from original import OriginalVTN, add_round, make_vit_b_vtn, measure_memory_growth, measure_seconds

from vtn_hf import optimize


RESULTS = Path(__file__).parent / "results"
NUM_FRAMES = 16
FRAMES_PER_CHUNK = 2
VARIANTS = ("original", "VTN", "VTN with checkpointing")


def make_step(name: str):
    """A function that computes a loss and the gradients of all parameters."""
    # Dropout off, so that the losses can be compared.
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    model = make_vit_b_vtn(frames_per_chunk=FRAMES_PER_CHUNK, **dropout).train()
    model = OriginalVTN(model) if name == "original" else optimize(model)
    if name == "VTN with checkpointing":
        model.activation_checkpointing_enable()
    pixel_values = torch.randn(1, NUM_FRAMES, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def step() -> float:
        model.zero_grad()
        outputs = model(pixel_values)
        logits = outputs if name == "original" else outputs.logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([7]))
        loss.backward()
        return loss.item()

    return step


def compare_speed() -> dict:
    steps = {name: make_step(name) for name in VARIANTS}
    losses = {name: step() for name, step in steps.items()}
    seconds = {name: measure_seconds(step) for name, step in steps.items()}
    return {
        **{f"{name} s": value for name, value in seconds.items()},
        **{f"{name} / original": seconds[name] / seconds["original"] for name in VARIANTS[1:]},
        "largest difference of losses": max(abs(losses[name] - losses["original"]) for name in VARIANTS[1:]),
    }


def compare_memory() -> dict:
    growth = {}
    for name in VARIANTS:
        command = [sys.executable, __file__, "memory-of", name]
        growth[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        **{f"{name} MB": value for name, value in growth.items()},
        **{f"{name} / original": growth[name] / growth["original"] for name in VARIANTS[1:]},
    }


def main():
    parser = argparse.ArgumentParser(description="A training step against the original's computation.")
    parser.add_argument("part", help="speed or memory")
    parser.add_argument("variant", nargs="?", help="for the processes that this one starts")
    options = parser.parse_args()
    if options.part == "memory-of":
        print(measure_memory_growth(make_step(options.variant)))
        return
    round = compare_speed() if options.part == "speed" else compare_memory()
    for name, value in add_round(RESULTS / f"training_step_{options.part}.json", round).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
