"""The temperature explains the labels, the confidence costs no more than is allowed, and both are kept."""

import json

import numpy as np
import pytest
import torch
from test_whole_video import make_model

from vtn_hf import VTNConfig, VTNForVideoClassification
from vtn_hf.inference.anytime import StopRule, classify_looks, order_coarse_to_fine, plan_looks
from vtn_hf.inference.calibration import (
    FIRST_LOOKS,
    Calibration,
    begin_with,
    calibrate,
    cross_fit,
    fit_temperature,
    plan_all_looks,
    split_in_halves,
)
from vtn_hf.training.metrics import CalibrationError


def draw(num_videos=4000, factor=1.0, num_labels=5, seed=0):
    """Logits, `factor` times too large, and labels drawn from what they ought to be."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_videos, num_labels, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]
    return factor * logits, labels


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_is_found(factor):
    logits, labels = draw(factor=factor)
    assert fit_temperature(logits, labels) == pytest.approx(factor, rel=0.06)


def test_temperature_of_several_labels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=generator)
    labels = torch.bernoulli(logits.sigmoid(), generator=generator)
    assert fit_temperature(4 * logits, labels) == pytest.approx(4, rel=0.1)
    looks = [[(8, row), (20, row)] for row in 4 * logits[:500]]
    found = calibrate(looks, labels[:500])
    assert found.temperature == pytest.approx(4, rel=0.3) and found.confidence is None


def test_error_of_calibration_falls_on_others():
    logits, labels = draw(factor=4.0)

    def measure(logits):
        scores = logits.softmax(dim=-1)
        return CalibrationError().compute(predictions=scores, references=labels)["calibration_error"]

    fitted = torch.stack([logits for [(_, logits)] in cross_fit([[(8, row)] for row in logits], labels)])
    assert measure(fitted) < 0.03 < 0.1 < measure(logits)


def test_each_half_has_videos_of_all_classes():
    labels = torch.arange(600) % 6
    first, second = split_in_halves(600)
    assert sorted(first + second) == list(range(600)) and len(first) == 300
    for half in (first, second):
        assert labels[half].bincount(minlength=6).min() > 30


def test_videos_that_are_all_right():
    logits = 2 * torch.eye(4).repeat(5, 1)
    assert 0.05 <= fit_temperature(logits, torch.arange(4).repeat(5)) < 0.2


def make_looks(num_videos=400, noise=(3.0, 2.0, 1.5, 1.5), seed=0):
    """Of each video, looks that know more and more."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (num_videos,), generator=generator)
    looks = []
    for label in labels.tolist():
        signal = 4.0 * torch.nn.functional.one_hot(torch.tensor(label), 4)
        looks.append([(8 * 2**i, signal + each * torch.randn(4, generator=generator)) for i, each in enumerate(noise)])
    return looks, labels


def test_few_frames_are_not_taken_to_be_as_certain_as_all():
    """All frames are always right, and would have a temperature with which everything is certain."""
    looks, labels = make_looks(noise=(3.0, 2.0, 1.0, 0.0))
    found = calibrate(looks, labels)
    assert 0.5 < found.temperature < 3
    assert found.accuracy >= found.accuracy_of_all_frames - 0.005 and found.share_of_frames < 1


@pytest.mark.parametrize("max_loss", [0.0, 0.005, 0.05])
def test_confidence_costs_no_more_than_allowed(max_loss):
    looks, labels = make_looks()
    found = calibrate(looks, labels, max_loss)
    rule = StopRule(confidence=found.confidence)
    hits, shares = [], []
    for video, label in zip(begin_with(looks, found.min_frames), labels.tolist(), strict=True):
        earlier = None
        for place, (_, logits) in enumerate(video):
            scores = (logits / found.temperature).softmax(dim=-1)
            if rule.is_settled(earlier, scores, False) or place == len(video) - 1:
                break
            earlier = scores
        hits.append(int(scores.argmax()) == label)
        shares.append(video[place][0] / video[-1][0])
    assert found.accuracy == pytest.approx(np.mean(hits))
    assert found.share_of_frames == pytest.approx(np.mean(shares)) and found.share_of_frames < 1
    num_lost = (found.accuracy_of_all_frames - found.accuracy) * len(looks)
    assert num_lost <= max(0, max_loss * (len(looks) + 1) - len(FIRST_LOOKS)) + 1e-6
    assert calibrate(looks, labels, 0.5).share_of_frames <= found.share_of_frames


def test_where_few_frames_are_never_enough():
    """The first looks are sure of what is wrong."""
    labels = torch.arange(4).repeat(10)
    right = 10 * torch.nn.functional.one_hot(labels, 4).float()
    looks = [[(8, 3 * row.flip(0)), (16, 3 * row.flip(0)), (32, row)] for row in right]
    found = calibrate(looks, labels)
    assert found.accuracy == found.accuracy_of_all_frames == found.share_of_frames == 1


def test_the_first_look_is_as_small_as_it_may_be():
    """Of 64 frames, two and four tell the class; or are sure of a wrong one, and eight are not."""
    labels = torch.arange(4).repeat(20)
    right = 10 * torch.nn.functional.one_hot(labels, 4).float()
    counts = (2, 4, 8, 16, 32, 64)
    found = calibrate([[(count, row) for count in counts] for row in right], labels)
    assert (found.min_frames, found.share_of_frames) == (2, 4 / 64)
    looks = [[(count, 3 * row.flip(0) if count < 8 else row) for count in counts] for row in right]
    found = calibrate(looks, labels)
    assert (found.min_frames, found.accuracy, found.share_of_frames) == (8, 1.0, 16 / 64)


@pytest.mark.parametrize("min_frames", FIRST_LOOKS)
def test_looks_with_any_first_look_are_among_all(min_frames):
    for total in range(1, 400):
        video = [(count, None) for count in plan_all_looks(total)]
        [chosen] = begin_with([video], min_frames)
        assert [count for count, _ in chosen] == plan_looks(total, min_frames)


def test_videos_that_are_over_at_once_allow_no_confidence():
    looks = [[(2, row)] for row in torch.eye(4).repeat(5, 1)]
    assert calibrate(looks, torch.arange(4).repeat(5)).confidence == 1.0


def test_too_few_videos():
    with pytest.raises(ValueError, match="there are 1"):
        calibrate([[(8, torch.zeros(3))]], torch.tensor([0]))


def test_what_is_stored(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    Calibration(temperature=1.5, confidence=0.85, min_frames=4).store(tmp_path)
    after = json.loads((tmp_path / "config.json").read_text())
    assert {name for name in after if after[name] != before.get(name)} == {
        "calibration_temperature",
        "anytime_confidence",
        "anytime_min_frames",
    }
    config = VTNForVideoClassification.from_pretrained(tmp_path).config
    assert (config.calibration_temperature, config.anytime_confidence) == (1.5, 0.85)
    with pytest.raises(ValueError, match="calibration_temperature"):
        VTNConfig(calibration_temperature=0.0)
    with pytest.raises(ValueError, match="anytime_confidence"):
        VTNConfig(anytime_confidence=2.0)


def test_looks_are_those_of_the_frames_that_are_there():
    model = make_model()
    features, position_ids = torch.randn(40, 32), torch.arange(0, 80, 2)
    looks = classify_looks(model, features, position_ids, plan_looks(40, 4))
    assert [count for count, _ in looks] == [4, 6, 8, 12, 16, 24, 40]
    for count, logits in looks:
        places = np.sort(order_coarse_to_fine(40)[:count])
        with torch.no_grad():
            expected = model(inputs_embeds=features[None, places], position_ids=position_ids[None, places]).logits[0]
        torch.testing.assert_close(logits, expected)
