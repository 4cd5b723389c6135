"""Tests of the metrics, against figures worked out by hand."""

import evaluate
import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from vtn_hf.training.metrics import (
    CalibrationError,
    MeanAveragePrecision,
    MeanClassAccuracy,
    TopAccuracy,
    compute_top_accuracy,
    confusion_matrix,
    keep_logits,
)


SCORES = np.array(
    [
        [0.6, 0.1, 0.1, 0.1, 0.06, 0.04],
        [0.5, 0.3, 0.1, 0.05, 0.03, 0.02],
        [0.01, 0.04, 0.05, 0.2, 0.3, 0.4],
        [0.01, 0.04, 0.05, 0.2, 0.3, 0.4],
    ]
)
LABELS = [0, 1, 0, 5]


def test_top_accuracy_counts_videos():
    # The class of the third video is the last of six.
    assert TopAccuracy().compute(predictions=SCORES, references=LABELS) == {"top1": 0.5, "top5": 0.75}


def test_equal_scores_are_no_hit():
    assert TopAccuracy().compute(predictions=np.full((2, 7), 0.5), references=[0, 6]) == {"top1": 0.0, "top5": 0.0}


@pytest.mark.parametrize("num_classes", [1, 2, 3, 5, 6, 7])
def test_top_accuracy_of_any_number_of_classes(num_classes):
    scores = np.random.default_rng(0).random((50, num_classes)).round(1)  # with ties
    labels = np.arange(50) % num_classes
    num_better = (scores >= scores[np.arange(50), labels][:, None]).sum(axis=1) - 1
    result = TopAccuracy().compute(predictions=scores, references=labels)
    assert result == {f"top{k}": pytest.approx((num_better < k).mean()) for k in (1, 5)}


@pytest.mark.parametrize("metric", [TopAccuracy, MeanClassAccuracy, MeanAveragePrecision, CalibrationError])
def test_scores_that_are_no_numbers_have_no_accuracy(metric):
    scores = np.full((2, 3), np.nan)
    references = [[1, 0, 0], [0, 1, 0]] if metric is MeanAveragePrecision else [0, 1]
    with pytest.raises(ValueError, match="NaN"):
        metric().compute(predictions=scores, references=references)


def test_trainer_metrics_agree_with_the_metric():
    logits = keep_logits((torch.tensor(SCORES), torch.zeros(9)), torch.tensor(LABELS))
    result = compute_top_accuracy(EvalPrediction(predictions=logits.numpy(), label_ids=np.array(LABELS)))
    expected = evaluate.combine([TopAccuracy(), MeanClassAccuracy()]).compute(predictions=SCORES, references=LABELS)
    assert result == expected | {"coverage": 1.0}


def test_mean_class_accuracy_weighs_classes_equally():
    # Class 0: one of two; class 1: none; class 5: the only one.
    result = MeanClassAccuracy().compute(predictions=SCORES, references=LABELS)
    assert result["mean_class_accuracy"] == pytest.approx((0.5 + 0 + 1) / 3)


def test_confusion_matrix_has_labels_in_rows():
    counts = confusion_matrix(SCORES, LABELS)
    assert counts.sum() == 4
    assert [counts[0, 0], counts[0, 5], counts[1, 0], counts[5, 5]] == [1, 1, 1, 1]


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    # Confidences 0.9 (right), 0.9 (wrong) in one bin, 0.6 (right) in another.
    scores = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]
    result = CalibrationError().compute(predictions=scores, references=[0, 1, 1])
    assert result["calibration_error"] == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.6 - 1)) / 3)


def test_calibrated_scores_have_no_calibration_error():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], size=20000)
    labels = [rng.choice(3, p=row) for row in probabilities]
    assert CalibrationError().compute(predictions=probabilities, references=labels)["calibration_error"] < 0.02


def test_average_precision_of_a_ranking():
    # Class 0 is found at ranks 1 and 3: (1 + 2/3) / 2. Class 1 at rank 2: 1/2. Class 2 does not occur.
    scores = [[0.9, 0.5, 0], [0.8, 0.9, 0], [0.7, 0.1, 0]]
    references = [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    result = MeanAveragePrecision().compute(predictions=scores, references=references)
    assert result["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


def test_average_precision_of_equal_scores_is_the_share_of_positives():
    result = MeanAveragePrecision().compute(predictions=[[0.5]] * 4, references=[[1], [0], [0], [0]])
    assert result["map"] == 0.25
    with pytest.raises(ValueError, match="None of the 2 videos has a label"):
        MeanAveragePrecision().compute(predictions=[[0.5]] * 2, references=[[0], [0]])


def test_metrics_combine_and_take_batches():
    combined = evaluate.combine([TopAccuracy(), MeanClassAccuracy(), CalibrationError()])
    result = combined.compute(predictions=SCORES.tolist(), references=LABELS)
    assert set(result) == {"top1", "top5", "mean_class_accuracy", "calibration_error"}

    metric = TopAccuracy()
    metric.add_batch(predictions=SCORES[:1], references=LABELS[:1])
    metric.add_batch(predictions=SCORES[1:], references=LABELS[1:])
    assert metric.compute()["top1"] == 0.5
