"""
Trains the backbone of the ablations on single frames of the same kind as in `drawn_videos.event_videos`.

What it learns to tell of a picture are the shape, the place and the size of the largest object: what there is to see
in one frame of an event, and nothing of time.
"""

import numpy as np
import torch
from torch import nn
from tqdm import trange

from drawn_videos.drawing import SHAPES, draw_canvas, paint, to_pictures
from vtn_hf import VTNForVideoClassification, VTNVideoProcessor


PICTURE_SIDE = 64
NUM_DISTRACTORS = 3
# Pictures that share a background: most of the time of drawing goes there.
NUM_SHARING = 4
NO_SHAPE = len(SHAPES)


def draw_pictures(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """
    Draws a few pictures with a common background.

    Returns:
        The pictures, uint8 (pictures, height, width, 3), and for each of them the number of the shape (`NO_SHAPE`
        where there are distractors only) and its horizontal place, vertical place and radius, in sides of the picture.
    """
    frames, colour = draw_canvas(NUM_SHARING, PICTURE_SIDE, PICTURE_SIDE, rng)
    targets = np.zeros((NUM_SHARING, 4))
    for frame, target in zip(frames, targets, strict=True):
        for _ in range(NUM_DISTRACTORS):
            path = np.array([[*rng.uniform(0.1, 0.9, size=2), rng.uniform(0.04, 0.07)]])
            paint(frame[None], path, rng.choice(SHAPES), rng.uniform(0, 2 * np.pi), rng.uniform(0, 255, size=3))
        target[0] = rng.choice([*range(len(SHAPES)), NO_SHAPE])
        if target[0] != NO_SHAPE:
            # Small ones are as frequent as large ones.
            radius = np.exp(rng.uniform(np.log(0.08), np.log(0.36)))
            target[1:] = *rng.uniform(0.7 * radius, 1 - 0.7 * radius, size=2), radius
            paint(frame[None], target[None, 1:], SHAPES[int(target[0])], rng.uniform(0, 2 * np.pi), colour)
    return to_pictures(frames, rng), targets


def train_backbone(
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    num_steps: int,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> dict[str, float]:
    """
    Trains the backbone of a model in place.

    Returns:
        `dict`: `shape_accuracy` and `place_error`, in sides of the picture, over the last twentieth of the steps, on
        pictures not seen before.
    """
    rng = np.random.default_rng([seed, PICTURE_SIDE])
    head = nn.Linear(model.vtn.feature_size, len(SHAPES) + 1 + 3)
    parameters = [*model.vtn.backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_steps)
    model.train()
    accuracies, errors = [], []
    for _ in trange(num_steps, desc="backbone", unit="step"):
        pictures, targets = zip(*(draw_pictures(rng) for _ in range(batch_size // NUM_SHARING)), strict=True)
        pixels = processor(np.concatenate(pictures), do_sample_frames=False, return_tensors="pt")["pixel_values"]
        targets = torch.from_numpy(np.concatenate(targets)).float()
        shape = targets[:, 0].long()
        outputs = head(model.vtn.get_frame_features(pixels)[0])
        has_shape = shape != NO_SHAPE
        distance = (outputs[:, -3:] - targets[:, 1:])[has_shape].abs()
        # Both parts then begin at about 1.
        loss = nn.functional.cross_entropy(outputs[:, :-3], shape) + 5 * distance.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        accuracies.append((outputs[:, :-3].argmax(dim=1) == shape).float().mean().item())
        errors.append(distance[:, :2].mean().item())
    last = max(1, num_steps // 20)
    return {"shape_accuracy": float(np.mean(accuracies[-last:])), "place_error": float(np.mean(errors[-last:]))}
