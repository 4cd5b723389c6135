"""Tests of examples/frame_backbone.py."""

import sys
from pathlib import Path

import numpy as np
import torch

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import frame_backbone  # noqa: E402


def test_pictures_show_what_the_targets_say():
    rng = np.random.default_rng(0)
    pictures, targets = (
        np.concatenate(parts) for parts in zip(*(frame_backbone.draw_pictures(rng) for _ in range(50)), strict=True)
    )
    assert pictures.shape == (200, 64, 64, 3) and pictures.dtype == np.uint8
    has_shape = targets[:, 0] != frame_backbone.NO_SHAPE
    assert 0.6 < has_shape.mean() < 0.9
    assert not targets[~has_shape, 1:].any()
    # Pictures without an object show the background that they share with those that have one.
    for start in range(0, 200, frame_backbone.NUM_SHARING):
        for with_shape in np.flatnonzero(has_shape[start : start + 4]) + start:
            for without in np.flatnonzero(~has_shape[start : start + 4]) + start:
                x, y, radius = targets[with_shape, 1:] * 64
                difference = abs(pictures[with_shape].astype(int) - pictures[without]).mean(axis=-1)
                row, column = np.mgrid[:64, :64]
                inside = (row + 0.5 - y) ** 2 + (column + 0.5 - x) ** 2 < (0.5 * radius) ** 2
                assert np.median(difference[inside]) > 3 * np.median(difference[~inside])


def test_training_changes_the_backbone_and_nothing_else():
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    model = VTNForVideoClassification(VTNConfig(backbone_config=backbone, num_attention_heads=2))
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    processor = VTNVideoProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    quality = frame_backbone.train_backbone(model, processor, num_steps=20, batch_size=8)
    assert set(quality) == {"shape_accuracy", "place_error"} and 0 <= quality["shape_accuracy"] <= 1
    changed = {name for name, weights in model.state_dict().items() if not weights.equal(before[name])}
    assert changed and all(name.startswith("vtn.backbone.") for name in changed)
