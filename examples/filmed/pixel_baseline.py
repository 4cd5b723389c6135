"""Kernel ridge regression on tiny grey pictures: what needs no network must be beaten."""

import numpy as np
import torch
from sklearn.kernel_ridge import KernelRidge


NUM_FRAMES = 12


def predict_from_pixels(
    pictures: list[dict[str, torch.Tensor]], labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """
    Scores of kernel ridge regression with a Gaussian kernel, (test videos, classes).

    Args:
        pictures: Of all videos, `pixel_values` (frames, 3, height, width).
        labels: Of all videos.
        train, test: Indices of those to learn from and of those to predict.
    """
    vectors = np.stack([_flatten(video["pixel_values"]) for video in pictures])
    targets = np.eye(labels.max() + 1)[labels]
    model = KernelRidge(kernel="rbf", gamma=1.0, alpha=0.1).fit(vectors[train], targets[train])
    return model.predict(vectors[test])


def _flatten(frames: torch.Tensor) -> np.ndarray:
    """Some grey frames in order as one vector, without the brightness and the contrast of the video, of length 1."""
    chosen = torch.linspace(0, len(frames) - 1, NUM_FRAMES).round().long()
    values = frames[chosen].float().mean(dim=1).flatten().numpy()
    values = values - values.mean()
    return values / np.linalg.norm(values)
