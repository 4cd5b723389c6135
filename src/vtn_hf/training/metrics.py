"""
Metrics of classification: functions for `Trainer`, and `evaluate.Metric` classes, which need no network. scikit-learn
computes them.

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
from sklearn import metrics
from sklearn.calibration import calibration_curve
from transformers import EvalPrediction

from ..data.coverage import NO_LABEL
from .min_coverage import check_coverage


def keep_logits(outputs: torch.Tensor | tuple, labels: torch.Tensor) -> torch.Tensor:
    """
    For `Trainer(preprocess_logits_for_metrics=…)`: the logits `(batch, classes)` without hidden states, which would
    fill the memory during an evaluation.

    Raises:
        FloatingPointError: If they are not finite, so that no class is the best.
    """
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    if not logits.isfinite().all():
        raise FloatingPointError("The scores of the model are not finite numbers, so it has no accuracy.")
    return logits


def compute_top_accuracy(
    prediction: EvalPrediction, num_missing: int = 0, min_coverage: float = 0.0
) -> dict[str, float]:
    """
    For `Trainer(compute_metrics=…)` with [`keep_logits`]: `top1`, `top5` and `mean_class_accuracy` of the videos that
    could be read, and `coverage`, the share of videos that could; all are between 0 and 1. `top1 * coverage` is the
    accuracy if a video that could not be read counts as wrong.

    Args:
        prediction (`EvalPrediction`): With the label -100 for a video that could not be read.
        num_missing (`int`, *optional*, defaults to 0): Videos that are not part of the prediction at all.
        min_coverage (`float`, *optional*, defaults to 0.0): Share of the videos that must be readable.

    Raises:
        ValueError: If fewer could be read, or none.
    """
    labels = np.asarray(prediction.label_ids)
    is_covered = labels != NO_LABEL
    check_coverage(is_covered.sum(), len(labels) + num_missing, min_coverage, "videos to evaluate on")
    scores, coverage = np.asarray(prediction.predictions)[is_covered], is_covered.sum() / (len(labels) + num_missing)
    accuracies = compute_top_accuracies(scores, labels[is_covered])
    accuracies["mean_class_accuracy"] = compute_mean_class_accuracy(scores, labels[is_covered])
    return accuracies | {"coverage": float(coverage)}


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


def compute_top_accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`top1` and `top5` of scores `(videos, classes)` and labels `(videos,)`; a tie with another class is a miss."""
    own = labels[:, None]
    # Else a model with equal scores for all classes would always be right.
    scores = scores.astype(np.float64)
    np.put_along_axis(scores, own, np.nextafter(np.take_along_axis(scores, own, axis=1), -np.inf), axis=1)
    # scikit-learn wants more than two classes, and more than k.
    num_more = max(6 - scores.shape[1], 0)
    scores = np.pad(scores, ((0, 0), (0, num_more)), constant_values=scores.min() - 1)
    names = range(scores.shape[1])
    return {f"top{k}": float(metrics.top_k_accuracy_score(labels, scores, k=k, labels=names)) for k in (1, 5)}


def compute_mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """The accuracy of each class that occurs, averaged, so that rare classes count as much."""
    return float(metrics.recall_score(labels, scores.argmax(axis=1), labels=np.unique(labels), average="macro"))


def confusion_matrix(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """
    Counts videos by class, with the scores `(videos, classes)` and the labels `(videos,)`: `(classes, classes)`, the
    row is the label and the column the class with the highest score.
    """
    predictions = np.asarray(predictions)
    names = range(predictions.shape[1])
    return metrics.confusion_matrix(references, predictions.argmax(axis=1), labels=names)


class _ScoreMetric(evaluate.Metric):
    """A metric of scores `(videos, classes)`; inputs are kept in memory, so that several can run side by side."""

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

    def _compute(self, predictions: list[list[float]], references: list) -> dict[str, float]:
        scores = np.asarray(predictions)
        if np.isnan(scores).any():
            raise ValueError(f"{np.isnan(scores).any(axis=1).sum()} of {len(scores)} videos have scores that are NaN.")
        return self._score(scores, np.asarray(references))

    def _score(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        raise NotImplementedError


class TopAccuracy(_ScoreMetric):
    """`top1` and `top5`: the share of videos whose class is the best, or among the five best. A tie is a miss."""

    description = "Share of videos whose class is among the best."

    def _score(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return compute_top_accuracies(scores, labels)


class MeanClassAccuracy(_ScoreMetric):
    """`mean_class_accuracy`: the accuracy of each class that occurs, averaged, so that rare classes count as much."""

    description = "Accuracy averaged over classes."

    def _score(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"mean_class_accuracy": compute_mean_class_accuracy(scores, labels)}


class CalibrationError(_ScoreMetric):
    """
    `calibration_error`: the expected calibration error (https://arxiv.org/abs/1706.04599) of probabilities. Videos are
    put into 15 equal bins by the probability of their best class; the error is the difference between the mean
    probability and the accuracy in a bin, averaged over the videos.
    """

    description = "Expected calibration error in 15 bins."
    num_bins = 15

    def _score(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        confidence = scores.max(axis=1).clip(0, 1)  # a sum of rounded numbers may be a little more
        hits = scores.argmax(axis=1) == labels
        accuracy, mean_confidence = calibration_curve(hits, confidence, n_bins=self.num_bins)
        # Bins are open below and closed above, here as there; those without videos are left out.
        edges = np.linspace(0, 1, self.num_bins + 1)
        counts = np.bincount(np.searchsorted(edges[1:-1], confidence))
        return {"calibration_error": float(np.average(abs(accuracy - mean_confidence), weights=counts[counts > 0]))}


class MeanAveragePrecision(_ScoreMetric):
    """
    `map`: for videos with several labels, the average precision of each class that occurs, averaged. The videos are
    ranked by the score of the class, and the precision at the rank of each video that has it is averaged.
    """

    description = "Mean average precision over classes."
    reference = datasets.List(datasets.Value("int64"))

    def _score(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"map": mean_average_precision(scores, labels.astype(bool))}


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
    return float(metrics.average_precision_score(is_positive[:, occurs], scores[:, occurs]))
