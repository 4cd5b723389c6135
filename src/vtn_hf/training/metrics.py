"""Metrics of classification, in numpy."""

import numpy as np
import torch
from transformers import EvalPrediction


def keep_top_classes(logits: torch.Tensor | tuple, labels: torch.Tensor) -> torch.Tensor:
    """
    For `Trainer(preprocess_logits_for_metrics=…)`: the five best classes `(batch, min(5, num_labels))` instead of the
    scores and hidden states, which would fill the memory during an evaluation.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits.topk(min(5, logits.shape[-1])).indices


def compute_top_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """For `Trainer(compute_metrics=…)` with [`keep_top_classes`]: `top1` and `top5`, between 0 and 1."""
    hits = np.asarray(prediction.predictions) == np.asarray(prediction.label_ids)[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(axis=1).mean())}
