"""
Prints the paper's models with their parameters and multiply-adds for a video of 250 frames, here and in the paper.

Nothing is computed: the models live on the meta device and their operations are counted.

    python examples/benchmarks/model_table.py --output examples/benchmarks/results/model_table.json
"""

import argparse
import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from vtn_hf import VTNConfig, VTNForVideoClassification, configs


CONFIGS = Path(configs.__file__).parent / "models"
NUM_FRAMES = 250
# Millions of parameters and, where the paper states them, billions of multiply-adds for 250 frames at 224 x 224.
PAPER = {
    "vit_b_vtn": ("ViT-B-VTN, 3 layers", 114.0, 4218),
    "vit_b_vtn_1_layer": ("ViT-B-VTN, 1 layer", 96.0, None),
    "deit_b_vtn": ("DeiT-B-VTN, 3 layers", 114.0, None),
    "r50_vtn": ("R50-VTN", 168.0, None),
    "r101_vtn": ("R101-VTN", 187.0, None),
}
# The products of two activations, which the paper's counter left out: it counts layers with weights.
ATTENTION = ("bmm", "baddbmm", "_scaled_dot_product")


def count(name: str) -> dict[str, float | str | None]:
    """One row of the table, in millions of parameters and billions of multiply-adds."""
    config = VTNConfig.from_pretrained(CONFIGS / f"{name}.json", num_labels=400)
    with torch.device("meta"):
        # In training mode, as counting needs no look at the pixels; a backbone in eval mode skips repeated frames.
        model = VTNForVideoClassification(config).train()
        # With a hook on the backbone all of it runs, as the paper counts it; without, its last layer may run for the
        # class token alone.
        model.vtn.backbone.register_forward_hook(lambda *_: None)
        pixel_values = torch.empty(1, NUM_FRAMES, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixel_values, labels=None)
    operations = counter.get_flop_counts()["Global"]
    attention = sum(
        flops for operation, flops in operations.items() if any(name in str(operation) for name in ATTENTION)
    )
    title, paper_parameters, paper_multiply_adds = PAPER[name]
    return {
        "model": title,
        "parameters": model.num_parameters() / 1e6,
        "parameters_paper": paper_parameters,
        "multiply_adds": (sum(operations.values()) - attention) / 2e9,
        "multiply_adds_paper": paper_multiply_adds,
        "multiply_adds_with_attention": sum(operations.values()) / 2e9,
    }


def main():
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description="Parameters and multiply-adds of the paper's models.")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    rows = [count(name) for name in PAPER]
    print("| model | parameters (M) | in the paper | multiply-adds (G) | in the paper | with attention products |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['model']} | {row['parameters']:.1f} | {row['parameters_paper']:.0f} | "
            f"{row['multiply_adds']:,.0f} | {row['multiply_adds_paper'] or '–'} | "
            f"{row['multiply_adds_with_attention']:,.0f} |"
        )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
