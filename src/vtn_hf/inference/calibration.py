"""
Calibration on held-out videos: the temperature with which scores say how often they are right, the score from which on
a few frames suffice, and how few are worth a look. All are kept in the configuration of the model.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from ..outputs import writing
from .anytime import DEFAULT_MIN_FRAMES, measure_agreement, plan_looks


Looks = list[tuple[int, torch.Tensor]]  # at a video: numbers of frames, and logits `(num_labels,)`

# Bounds of the temperature; beyond them, scores are certain of everything or of nothing.
_BOUNDS = (0.05, 20.0)
# Frames of the first look, and scores, that are tried. Not many: of a hundred videos, the best of many is often luck.
FIRST_LOOKS = (2, 4, 8)
_CONFIDENCES = (*np.arange(0.3, 0.99, 0.02).round(2).tolist(), 0.99, 0.995, 0.999, 1.0)


@dataclass
class Calibration:
    """
    What was found on held-out videos.

    Args:
        temperature (`float`): What logits are divided by.
        confidence (`float`, *optional*): Score from which an answer is as good as that of all frames; 1.0 if none is.
        min_frames (`int`, *optional*): Frames of the first look.
        accuracy (`float`, *optional*): Share of these videos that are classified correctly when it is applied.
        accuracy_of_all_frames (`float`, *optional*): The same when all frames are looked at.
        share_of_frames (`float`, *optional*): Share of its frames that is looked at, averaged over the videos.
    """

    temperature: float
    confidence: float | None = None
    min_frames: int | None = None
    accuracy: float | None = None
    accuracy_of_all_frames: float | None = None
    share_of_frames: float | None = None

    def store(self, folder: str | Path):
        """Writes temperature, confidence and first look into the configuration of the model in a folder."""
        path = Path(folder, "config.json")
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"calibration_temperature": self.temperature}
        config |= {"anytime_confidence": self.confidence, "anytime_min_frames": self.min_frames}
        with writing(path) as unfinished:
            unfinished.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, float]:
        """The fields that are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """
    Finds the temperature with which logits predict the labels best (https://arxiv.org/abs/1706.04599).

    Args:
        logits (`torch.Tensor` of shape `(videos, num_labels)`): Of held-out videos.
        labels (`torch.Tensor` of shape `(videos,)` or `(videos, num_labels)`): Classes; or zeros and ones, where a
            video may have several.

    Returns:
        `float`: Between 0.05 and 20.
    """
    logits = logits.double()
    if labels.ndim == 2:
        labels = labels.double()
        loss: Callable[..., torch.Tensor] = nn.functional.binary_cross_entropy_with_logits
    else:
        loss = nn.functional.cross_entropy
    found = minimize_scalar(
        lambda exponent: loss(logits / np.exp(exponent), labels).item(), bounds=np.log(_BOUNDS), method="bounded"
    )
    return float(np.exp(found.x))


def pool_looks(looks: list[Looks], labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of all looks at all videos."""
    logits = torch.stack([logits for video in looks for _, logits in video])
    return logits, labels.repeat_interleave(torch.tensor([len(video) for video in looks]), dim=0)


def split_in_halves(num_videos: int) -> tuple[list[int], list[int]]:
    """Two halves at random, always the same: in a list of videos every other one may be of the same few classes."""
    order = np.random.default_rng(0).permutation(num_videos)
    return sorted(order[::2].tolist()), sorted(order[1::2].tolist())


def cross_fit(looks: list[Looks], labels: torch.Tensor) -> list[Looks]:
    """Divides the logits of each half of the videos by the temperature of the other half, as for new videos."""
    fitted = list(looks)
    first, second = split_in_halves(len(looks))
    for half, others in ((first, second), (second, first)):
        temperature = fit_temperature(*pool_looks([looks[place] for place in others], labels[others]))
        for place in half:
            fitted[place] = [(count, logits / temperature) for count, logits in looks[place]]
    return fitted


def calibrate(looks: list[Looks], labels: torch.Tensor, max_loss: float = 0.005) -> Calibration:
    """
    Fits the temperature to all looks, as a certainty is to mean the same after few frames and after many, and finds
    the lowest confidence that costs no more accuracy than allowed; of the first looks tried, the largest with which
    about the fewest frames are looked at.

    Args:
        looks (`list`): For each held-out video, what [`classify_looks`] gives for [`plan_all_looks`].
        labels (`torch.Tensor`): As in [`fit_temperature`]; the confidence is found for one class per video only.
        max_loss (`float`, *optional*, defaults to 0.005): Accuracy that may be lost, between 0 and 1, on videos like
            these. Of these themselves fewer may be lost, or none: one less (conformal risk control,
            https://arxiv.org/abs/2208.02814) for each first look that is tried, as the best of several is often luck.

    Raises:
        ValueError: If there are fewer than two videos.
    """
    if len(looks) < 2:
        raise ValueError(f"To calibrate needs two videos at least, and better some hundred; there are {len(looks)}.")
    if labels.ndim == 2:
        return Calibration(fit_temperature(*pool_looks(begin_with(looks, DEFAULT_MIN_FRAMES), labels)))
    found = [_calibrate_first(looks, labels, max_loss, min_frames) for min_frames in reversed(FIRST_LOOKS)]
    # Of those that are about as good, the largest, as each look takes time.
    least = min(each.share_of_frames for each in found)
    return next(each for each in found if each.share_of_frames <= 1.05 * least)


def plan_all_looks(num_frames: int) -> list[int]:
    """Frames of all looks that may be wanted of a video, whichever is the first one."""
    return sorted({count for min_frames in FIRST_LOOKS for count in plan_looks(num_frames, min_frames)})


def begin_with(looks: list[Looks], min_frames: int) -> list[Looks]:
    """Of all looks at each video, the last of which is at all frames, those that there are with this first look."""
    plans = [plan_looks(video[-1][0], min_frames) for video in looks]
    return [[look for look in video if look[0] in plan] for video, plan in zip(looks, plans, strict=True)]


def _calibrate_first(looks: list[Looks], labels: torch.Tensor, max_loss: float, min_frames: int) -> Calibration:
    """[`calibrate`] with this first look."""
    looks = begin_with(looks, min_frames)
    temperature = fit_temperature(*pool_looks(looks, labels))
    stops = [Stops(video, temperature) for video in looks]
    best = total = None
    max_lost = max(0.0, max_loss * (len(looks) + 1) - len(FIRST_LOOKS))
    for confidence in reversed(_CONFIDENCES):
        ends = [each.find_end(confidence) for each in stops]
        hits = [each.answers[end] == label for each, end, label in zip(stops, ends, labels.tolist(), strict=True)]
        share = np.mean([each.counts[end] / each.counts[-1] for each, end in zip(stops, ends, strict=True)])
        total = np.mean(hits) if total is None else total  # the first confidence, 1.0, never stops early
        if (total - np.mean(hits)) * len(looks) > max_lost + 1e-6:
            break
        # Not one that is lower than it need be: videos that end before the second look would allow any.
        if best is None or share < best.share_of_frames:
            best = Calibration(temperature, confidence, min_frames, float(np.mean(hits)), float(total), float(share))
    return best


class Stops:
    """
    The looks at a video: numbers of frames, answers, and how certain each look and the one before it are of the same
    answer.
    """

    def __init__(self, looks: Looks, temperature: float):
        scores = [(logits / temperature).softmax(dim=-1) for _, logits in looks]
        self.counts = [count for count, _ in looks]
        self.answers = [int(each.argmax()) for each in scores]
        self.agreements = [0.0, *map(measure_agreement, scores[:-1], scores[1:])]

    def find_end(self, confidence: float) -> int:
        """Which look is the last one with this confidence, from 0 on."""
        ends = (place for place, level in enumerate(self.agreements) if level >= confidence < 1)
        return next(ends, len(self.counts) - 1)
