"""
A drawn task in which place decides: one vector per frame against a grid of them, and against attention pooling.

    python examples/place_task.py --output places.json

Four small squares move from the middle of a dark picture, each to a corner of its own choice; the class is the corner
that the red one goes to. Pictures hold the same squares whatever the class, so the mean of their features says little.
All models read the same features of one frozen network with random weights, for the same steps. It prints accuracies,
and how much of the class token's attention to places falls on that of the red square, against places drawn at random;
that takes about four minutes of one CPU core.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vtn_hf import VTNConfig, VTNForVideoClassification
from vtn_hf.outputs import check_outputs, writing


SIDE, SQUARE, NUM_FRAMES, GRID = 64, 8, 6, 4
MARGIN = 12  # at the border of a picture, a convolutional network knows where it is
COLOURS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=torch.float32)
BACKBONE = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 16, "hidden_sizes": [64], "depths": [1]}
MODELS = {
    "one vector": {},
    f"grid {GRID} x {GRID}": {"frame_grid": GRID},
    "attention pooling": {"frame_grid": GRID, "frame_pooling": "attention"},
}


def draw_video(rng: np.random.Generator) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Pixels `(frames, 3, SIDE, SIDE)`, the corner that the red square goes to, and its middle `(frames, 2)`."""
    corners = rng.integers(4, size=len(COLOURS))
    far = SIDE - SQUARE - 2 * MARGIN
    ends = np.stack([corners // 2, corners % 2], axis=1) * far
    ends = MARGIN + np.abs(ends - rng.integers(0, far // 6, size=ends.shape))
    starts = MARGIN + rng.integers(far // 3, 2 * far // 3 + 1, size=ends.shape)
    share = np.linspace(0, 1, NUM_FRAMES)[:, None, None]
    paths = np.round(starts + share * (ends - starts)).astype(int)  # (frames, squares, 2)
    pixels = 0.1 * torch.from_numpy(rng.standard_normal((NUM_FRAMES, 3, SIDE, SIDE), dtype=np.float32))
    for number, squares in enumerate(paths):
        for index in rng.permutation(len(COLOURS)):
            row, column = squares[index]
            pixels[number, :, row : row + SQUARE, column : column + SQUARE] = COLOURS[index][:, None, None]
    return pixels, int(corners[0]), torch.from_numpy(paths[:, 0] + SQUARE / 2)


def make_model(seed: int, **fields) -> VTNForVideoClassification:
    """Always with the same backbone."""
    config = VTNConfig(
        backbone_config=BACKBONE,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        attention_window=4,
        classifier_dropout=0.1,
        num_labels=4,
        **fields,
    )
    torch.manual_seed(0)
    backbone = VTNForVideoClassification(config).vtn.backbone
    torch.manual_seed(seed)
    model = VTNForVideoClassification(config)
    model.vtn.backbone = backbone
    model.freeze_backbone()
    return model


@torch.no_grad()
def make_features(num_videos: int, seed: int) -> dict[str, torch.Tensor]:
    """`inputs_embeds` `(videos, frames, tokens, features)`, `labels`, and `places` `(videos, frames)` in the grid."""
    vtn, rng = make_model(0, frame_grid=GRID).vtn.eval(), np.random.default_rng(seed)
    features, labels, places = [], [], []
    for _ in tqdm(range(num_videos), desc="features", unit="video"):
        pixels, label, middles = draw_video(rng)
        features.append(vtn.get_frame_features(pixels[None])[0])
        labels.append(label)
        rows, columns = (middles * GRID / SIDE).long().T
        places.append(rows * GRID + columns)
    return {"inputs_embeds": torch.stack(features), "labels": torch.tensor(labels), "places": torch.stack(places)}


def standardize(data: dict[str, torch.Tensor], train: dict[str, torch.Tensor], is_grid: bool) -> torch.Tensor:
    """What a model gets: features of mean 0 and deviation 1, over the training videos; all tokens or the first."""
    mean = train["inputs_embeds"].mean(dim=(0, 1, 2))
    deviation = train["inputs_embeds"].std(dim=(0, 1), keepdim=True).mean(dim=2)[0, 0]
    features = (data["inputs_embeds"] - mean) / deviation
    return features if is_grid else features[:, :, 0]


def train_model(model: VTNForVideoClassification, features: torch.Tensor, labels: torch.Tensor, num_steps: int):
    """AdamW with a learning rate that falls to zero."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=num_steps)
    model.train()
    for _ in range(num_steps):
        batch = torch.randint(len(labels), (32,))
        model(inputs_embeds=features[batch], labels=labels[batch]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


@torch.no_grad()
def evaluate(model: VTNForVideoClassification, features: torch.Tensor, data: dict[str, torch.Tensor]) -> dict:
    """Accuracy; and the share of the attention to places that falls on the red square's, and on the average one."""
    outputs = model.eval()(inputs_embeds=features, output_attentions=True)
    figures = {"accuracy": (outputs.logits.argmax(dim=1) == data["labels"]).float().mean().item()}
    if model.config.frame_grid is None:
        return figures
    # (videos, frames, tokens), averaged over layers and heads
    attention = torch.stack(outputs.global_attentions).mean(dim=(0, 2))[:, 1:].unflatten(1, (NUM_FRAMES, -1))
    if outputs.pooling_attentions is not None:
        attention = attention * outputs.pooling_attentions[0].mean(dim=2)
    places = attention[..., 1:]
    on_place = places.gather(2, data["places"][..., None]).sum() / places.sum()
    return figures | {"attention": on_place.item(), "chance": 1 / GRID**2}


def main(argv: list[str] | None = None) -> int:
    """Trains all models and prints the table."""
    parser = argparse.ArgumentParser(description="One vector per frame against a grid where place decides.")
    parser.add_argument("--output", type=Path, required=True, help="figures of every run, as JSON")
    parser.add_argument("--num_train", type=int, default=1000, help="training videos")
    parser.add_argument("--num_val", type=int, default=500, help="videos to evaluate on")
    parser.add_argument("--num_steps", type=int, default=500, help="of 32 videos each")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    options = parser.parse_args(argv)
    check_outputs([options.output], [], overwrite=True)
    train, val = (make_features(number, seed) for seed, number in enumerate((options.num_train, options.num_val)))
    results = []
    for name, fields in MODELS.items():
        for seed in range(options.seeds):
            model, is_grid = make_model(seed, **fields), "frame_grid" in fields
            train_model(model, standardize(train, train, is_grid), train["labels"], options.num_steps)
            figures = evaluate(model, standardize(val, train, is_grid), val)
            results.append({"model": name, "seed": seed} | figures)
            print(
                "  ".join(
                    f"{key} {value:.3f}" if isinstance(value, float) else str(value)
                    for key, value in results[-1].items()
                )
            )
    with writing(options.output) as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
