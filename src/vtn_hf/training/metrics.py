"""Metrics of classification, in numpy."""

import numpy as np
import torch
from transformers import EvalPrediction

from ..data.coverage import NO_LABEL


def keep_top_classes(logits: torch.Tensor | tuple, labels: torch.Tensor) -> torch.Tensor:
    """
    For `Trainer(preprocess_logits_for_metrics=…)`: the five best classes `(batch, min(5, num_labels))` instead of the
    scores and hidden states, which would fill the memory during an evaluation.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits.topk(min(5, logits.shape[-1])).indices


def compute_top_accuracy(prediction: EvalPrediction, num_missing: int = 0) -> dict[str, float]:
    """
    For `Trainer(compute_metrics=…)` with [`keep_top_classes`]: `top1` and `top5` of the videos that could be read, and
    `coverage`, the share of videos that those are; between 0 and 1. Their product is the accuracy if what could not be
    read counts as wrong.

    Args:
        prediction (`EvalPrediction`): With the label -100 for a video that could not be read.
        num_missing (`int`, *optional*, defaults to 0): Videos that are not part of the prediction at all.
    """
    labels = np.asarray(prediction.label_ids)
    is_covered = labels != NO_LABEL
    hits = np.asarray(prediction.predictions)[is_covered] == labels[is_covered, None]
    return {
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits.any(axis=1).mean()),
        "coverage": float(is_covered.sum() / (len(labels) + num_missing)),
    }


def compute_average_precision(prediction: EvalPrediction, num_missing: int = 0) -> dict[str, float]:
    """
    For `Trainer(compute_metrics=…)` where a video may have several labels: `map`, the average precision of each class
    that occurs, averaged, and `coverage` as in [`compute_top_accuracy`].
    """
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    labels = np.asarray(prediction.label_ids)
    is_covered = (labels != NO_LABEL).all(axis=1)
    logits, positive = np.asarray(logits)[is_covered], labels[is_covered] > 0
    precisions = []
    for label in np.flatnonzero(positive.any(axis=0)):
        hits = positive[np.argsort(-logits[:, label], kind="stable"), label]
        precisions.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())
    return {"map": float(np.mean(precisions)), "coverage": float(is_covered.sum() / (len(labels) + num_missing))}
