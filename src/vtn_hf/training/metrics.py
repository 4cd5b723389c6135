"""
Metrics of classification: functions for `Trainer`, and `evaluate.Metric` classes, which need no network.

    from evaluate import combine
    from vtn_hf.training.metrics import MeanClassAccuracy, TopAccuracy

    combine([TopAccuracy(), MeanClassAccuracy()]).compute(predictions=probabilities, references=labels)

Predictions are one row of scores per video; references one class index per video or, for several labels per video, one
row of 0 and 1 each.
"""

import datasets
import evaluate
import numpy as np
import torch
from transformers import EvalPrediction

from ..data.coverage import NO_LABEL
from .min_coverage import check_coverage


def keep_logits(outputs: torch.Tensor | tuple, labels: torch.Tensor) -> torch.Tensor:
    """
    For `Trainer(preprocess_logits_for_metrics=…)`: the logits `(batch, classes)` without hidden states, which would
    fill the memory during an evaluation.

    Raises:
        FloatingPointError: If they are not finite, of which none is the best.
    """
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    if not logits.isfinite().all():
        raise FloatingPointError("The scores of the model are not finite numbers, so it has no accuracy.")
    return logits


def compute_top_accuracy(
    prediction: EvalPrediction, num_missing: int = 0, min_coverage: float = 0.0
) -> dict[str, float]:
    """
    For `Trainer(compute_metrics=…)` with [`keep_logits`]: `top1` and `top5` of the videos that could be read, and
    `coverage`, the share of videos that those are; between 0 and 1. Their product is the accuracy if what could not be
    read counts as wrong.

    Args:
        prediction (`EvalPrediction`): With the label -100 for a video that could not be read.
        num_missing (`int`, *optional*, defaults to 0): Videos that are not part of the prediction at all.
        min_coverage (`float`, *optional*, defaults to 0.0): Share of the videos that must be readable.

    Raises:
        ValueError: If fewer are, or none.
    """
    labels = np.asarray(prediction.label_ids)
    is_covered = labels != NO_LABEL
    check_coverage(is_covered.sum(), len(labels) + num_missing, min_coverage, "videos to evaluate on")
    best = np.argsort(-np.asarray(prediction.predictions)[is_covered], axis=1, kind="stable")[:, :5]
    hits = best == labels[is_covered, None]
    return {
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits.any(axis=1).mean()),
        "coverage": float(is_covered.sum() / (len(labels) + num_missing)),
    }


def compute_average_precision(
    prediction: EvalPrediction, num_missing: int = 0, min_coverage: float = 0.0
) -> dict[str, float]:
    """
    For `Trainer(compute_metrics=…)` where a video may have several labels: `map`, the average precision of each class
    that occurs, averaged, and `coverage`; arguments and errors as in [`compute_top_accuracy`].
    """
    labels = np.asarray(prediction.label_ids)
    is_covered = (labels != NO_LABEL).all(axis=1)
    check_coverage(is_covered.sum(), len(labels) + num_missing, min_coverage, "videos to evaluate on")
    logits, positive = np.asarray(prediction.predictions)[is_covered], labels[is_covered] > 0
    coverage = float(is_covered.sum() / (len(labels) + num_missing))
    return {"map": mean_average_precision(logits, positive), "coverage": coverage}


def confusion_matrix(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """
    Counts videos by class, with the scores `(videos, classes)` and the labels `(videos,)`: `(classes, classes)`, the
    row is the label and the column the class with the highest score.
    """
    predictions = np.asarray(predictions)
    counts = np.zeros((predictions.shape[1],) * 2, dtype=np.int64)
    np.add.at(counts, (np.asarray(references), predictions.argmax(axis=1)), 1)
    return counts


class _ScoreMetric(evaluate.Metric):
    """A metric of scores `(videos, classes)`; everything is kept in memory, as several may run beside each other."""

    description: str
    reference: datasets.features.Features | datasets.Value = datasets.Value("int64")

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="predictions: scores (videos, classes); references: see the module.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": self.reference}
            ),
        )


class TopAccuracy(_ScoreMetric):
    """`top1` and `top5`: the share of videos whose class is the best, or among the five best. A tie is a miss."""

    description = "Share of videos whose class is among the best."

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        # The number of other classes that are at least as good: a model that knows nothing gets nothing.
        rank = (scores >= own).sum(axis=1) - 1
        return {f"top{k}": float((rank < k).mean()) for k in (1, 5)}


class MeanClassAccuracy(_ScoreMetric):
    """`mean_class_accuracy`: the accuracy of each class that occurs, averaged, so that rare classes count as much."""

    description = "Accuracy averaged over classes."

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        counts = confusion_matrix(predictions, references)
        occurs = counts.sum(axis=1) > 0
        return {"mean_class_accuracy": float((counts.diagonal()[occurs] / counts.sum(axis=1)[occurs]).mean())}


class CalibrationError(_ScoreMetric):
    """
    `calibration_error`: the expected calibration error (https://arxiv.org/abs/1706.04599) of probabilities. Videos are
    put into 15 equal bins by the probability of their best class; the error is the difference between the mean
    probability and the accuracy in a bin, averaged over the videos.
    """

    description = "Expected calibration error in 15 bins."
    num_bins = 15

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        probabilities = np.asarray(predictions)
        confidence = probabilities.max(axis=1)
        hits = probabilities.argmax(axis=1) == np.asarray(references)
        # Bins are open below and closed above, as in the paper.
        bins = np.ceil(confidence * self.num_bins).astype(np.int64).clip(1, self.num_bins)
        gaps = np.bincount(bins, weights=confidence - hits, minlength=self.num_bins + 1)
        return {"calibration_error": float(abs(gaps).sum() / len(hits))}


class MeanAveragePrecision(_ScoreMetric):
    """
    `map`: for videos with several labels, the average precision of each class that occurs, averaged. The videos are
    ranked by the score of the class, and the precision at the rank of each video that has it is averaged.
    """

    description = "Mean average precision over classes."
    reference = datasets.List(datasets.Value("int64"))

    def _compute(self, predictions: list[list[float]], references: list[list[int]]) -> dict[str, float]:
        return {"map": mean_average_precision(np.asarray(predictions), np.asarray(references).astype(bool))}


def mean_average_precision(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """
    The average precision of each class that occurs, averaged.

    Args:
        scores (`np.ndarray` of shape `(videos, classes)`): The higher, the more likely.
        is_positive (`np.ndarray` of bool and shape `(videos, classes)`): Which classes a video has.

    Raises:
        ValueError: If no video has a class.
    """
    occurs = np.flatnonzero(is_positive.any(axis=0))
    if len(occurs) == 0:
        raise ValueError(f"None of the {len(is_positive)} videos has a label.")
    return float(np.mean([_average_precision(scores[:, label], is_positive[:, label]) for label in occurs]))


def _average_precision(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Of equal scores, all count at the last of their ranks, as the order among them says nothing."""
    order = np.argsort(-scores, kind="stable")
    hits = is_positive[order].cumsum()
    # The last place with the same score.
    last = np.searchsorted(-scores[order], -scores[order], side="right") - 1
    return float((hits[last] / (last + 1))[is_positive[order]].mean())
