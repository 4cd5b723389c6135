"""
Stopping early: a few frames spread over the video are looked at first, then those between them, until the answer is
certain or the time is up.

The features of a frame do not depend on other frames, so each look costs the backbone on the new frames only, and the
temporal encoder, which is cheap, on all frames seen so far.
"""

import copy
import itertools
import math
import time
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from tqdm.auto import tqdm

from ..configuration_vtn import VTNConfig
from ..modeling_vtn import VTNForVideoClassification
from ..video_decoding_vtn import VideoSource
from ..video_processing_vtn import VTNVideoProcessor
from .frame_features import ChunkEncoder, PictureSource, Prefetcher, VideoFeatures, choose_chunk_size, gather_features
from .repeats import RepeatFinder
from .scores import to_scores


DEFAULT_MIN_FRAMES = 8


def order_coarse_to_fine(num_frames: int) -> np.ndarray:
    """
    Orders frames so that every beginning of the order is spread over the video: the first, the last, the middle one,
    then the middles of halves, of quarters, …

    Args:
        num_frames (`int`): Frames in the video.

    Returns:
        `np.ndarray` of int64 and shape `(num_frames,)`: Each number once. Among the first `k`, neighbours are at most
        `2 * (num_frames - 1) / (k - 1) + 1` frames apart.

    Raises:
        ValueError: If there are no frames.
    """
    if num_frames < 1:
        raise ValueError(f"There must be at least one frame to order, got {num_frames}.")
    num_levels = (num_frames - 1).bit_length()
    # Van der Corput's sequence, in units so small that no frame lies between two of them: 0, 1/2, 1/4, 3/4, 1/8, 5/8 …
    places = np.zeros(1, dtype=np.int64)
    for level in range(num_levels):
        places = np.concatenate([places, places + 2 ** (num_levels - 1 - level)])
    places = np.insert(places, 1, 2**num_levels)
    numbers = places * (num_frames - 1) // 2**num_levels
    _, first_places = np.unique(numbers, return_index=True)
    return numbers[np.sort(first_places)]


def plan_looks(num_frames: int, min_frames: int) -> list[int]:
    """
    Says after how many frames to look: `min_frames`, half as many more, twice, three times, four times, six times as
    many and so on, and in the end all. A look shortly before the last one is left out.
    """
    looks = [min(min_frames, num_frames)]
    factors = (factor << power for power in itertools.count() for factor in (2, 3))
    for count in (min_frames * factor // 2 for factor in factors):
        if 3 * count >= 2 * num_frames:
            break
        if count > looks[-1]:
            looks.append(count)
    return looks if looks[-1] == num_frames else [*looks, num_frames]


def measure_agreement(earlier: torch.Tensor, scores: torch.Tensor, is_multi_label: bool = False) -> float:
    """How certain two looks are of the same answer, scores `(num_labels,)` each; 0 where their answers differ."""
    both = torch.stack([earlier, scores])
    if is_multi_label:
        certainties, answers = torch.maximum(both, 1 - both), both > 0.5
    else:
        certainties, answers = both.max(dim=-1)
    return certainties.min().item() if (answers[0] == answers[1]).all() else 0.0


@torch.no_grad()
def classify_looks(
    model: VTNForVideoClassification, features: torch.Tensor, position_ids: torch.Tensor, counts: Sequence[int]
) -> list[tuple[int, torch.Tensor]]:
    """
    Classifies a video at each look, from the features of all its frames.

    Args:
        model (`VTNForVideoClassification`): In eval mode.
        features (`torch.Tensor` of shape `(frames, backbone features)`): Of all frames.
        position_ids (`torch.Tensor` of shape `(frames,)`): Their numbers in the video.
        counts (`Sequence[int]`): Frames of each look, such as [`plan_looks`] gives.

    Returns:
        `list`: For each look, the number of frames and the logits `(num_labels,)`.
    """
    order, looks = torch.from_numpy(order_coarse_to_fine(len(features))).to(features.device), []
    for count in counts:
        places = order[:count].sort().values
        logits = model(inputs_embeds=features[None, places], position_ids=position_ids[None, places]).logits[0]
        looks.append((count, logits))
    return looks


@dataclass(frozen=True)
class StopRule:
    """
    Decides when enough frames have been seen.

    Args:
        confidence (`float`, *optional*): Score from which a look counts as certain; at 1.0, or without it, none does.
        max_seconds (`float`, *optional*): Seconds after which no further chunk is started.
        min_frames (`int`, *optional*, defaults to 8): Frames of the first look.

    Raises:
        ValueError: If one of them is out of its range.
    """

    confidence: float | None = None
    max_seconds: float | None = None
    min_frames: int = DEFAULT_MIN_FRAMES

    def __post_init__(self):
        if self.confidence is not None and not 0 < self.confidence <= 1:
            raise ValueError(f"`confidence` must be above 0 and at most 1, got {self.confidence}.")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"`max_seconds` must be positive, got {self.max_seconds}.")
        if not isinstance(self.min_frames, Integral) or self.min_frames < 1:
            raise ValueError(f"`min_frames` must be a whole number, at least 1, got {self.min_frames!r}.")

    @classmethod
    def of_model(
        cls,
        model: VTNForVideoClassification,
        confidence: float | str | None,
        max_seconds: float | None,
        min_frames: int | None,
    ) -> "StopRule":
        """
        Makes the rule for a model, in whose configuration `confidence="stored"` is looked up, and the frames of the
        first look that belong to it.
        """
        if isinstance(confidence, str):
            if confidence != "stored":
                raise ValueError(f'`confidence` must be a number or "stored", got {confidence!r}.')
            confidence = model.config.anytime_confidence
            if confidence is None:
                raise ValueError(
                    'confidence="stored", but the model stores none: `vtn evaluate --calibrate` finds and stores it.'
                )
            if min_frames is None:
                min_frames = getattr(model.config, "anytime_min_frames", None)  # not in code of older checkpoints
        rule = cls(confidence, max_seconds, DEFAULT_MIN_FRAMES if min_frames is None else min_frames)
        if rule.may_be_certain:
            rule.check(model.config)
        return rule

    def check(self, config: VTNConfig):
        """
        Warns of scores that say little of certainty.

        Raises:
            ValueError: If a model has nothing to be certain of.
        """
        is_multi_label = config.problem_type == "multi_label_classification"
        if config.problem_type == "regression" or (config.num_labels == 1 and not is_multi_label):
            raise ValueError("A model for regression has no classes to be certain of; leave `confidence` out.")
        if not getattr(config, "frame_changes", False):  # not in code of older checkpoints
            return
        if self.min_frames == 1:
            raise ValueError(
                "The model reads changes between frames, and one frame has none; `min_frames` must be 2 or more."
            )
        if config.anytime_confidence is None:
            warnings.warn(
                "The model reads changes between frames, which are larger the fewer are looked at. Train it on clips "
                "of few and many frames (--clip_num_frames 8 64), and let `vtn evaluate --calibrate` find out from "
                "which score on it can be believed.",
                stacklevel=4,
            )

    @property
    def may_be_certain(self) -> bool:
        """Whether a score can be high enough to stop."""
        return self.confidence is not None and self.confidence < 1

    @property
    def may_stop(self) -> bool:
        """Whether it may stop before the last frame."""
        return self.may_be_certain or self.max_seconds is not None

    def is_settled(self, earlier: torch.Tensor | None, scores: torch.Tensor, is_multi_label: bool) -> bool:
        """Whether two consecutive looks, scores `(num_labels,)` each, agree and are certain."""
        if earlier is None or not self.may_be_certain:
            return False
        return measure_agreement(earlier, scores, is_multi_label) >= self.confidence


class _Plan:
    """
    In which order the frames of a video are decoded and looked at, from coarse to fine.

    Args:
        numbers (`list[int]`): Numbers of the frames that are taken at most, ascending.
        rule (`StopRule`): Says after how many frames to look.

    Attributes:
        looks (`list[list[int]]`): Frame numbers of each look, ascending.
        rounds (`list[list[int]]`): Frame numbers that are decoded in one go, ascending in each round.
        ends (`dict[int, int]`): From the last frame of each round to the number of looks possible by then.
        last (`int`): The frame after which all have been seen.
    """

    def __init__(self, numbers: list[int], rule: StopRule):
        order = np.array(numbers)[order_coarse_to_fine(len(numbers))]
        counts = plan_looks(len(numbers), rule.min_frames)
        self.looks = [np.sort(order[:count]).tolist() for count in counts]
        # A single look never suffices, so the frames of two are new together where time is no concern.
        first = 0 if rule.max_seconds is not None or len(counts) == 1 else 1
        edges = [0, *counts[first:]]
        self.rounds = [np.sort(order[start:end]).tolist() for start, end in itertools.pairwise(edges)]
        self.ends = {part[-1]: first + place for place, part in enumerate(self.rounds, start=1)}
        self.last = self.rounds[-1][-1]


class _Looker:
    """
    Classifies the frames seen so far whenever a look is complete. The clock for `max_seconds` starts when it is made.
    """

    def __init__(self, model: VTNForVideoClassification, rule: StopRule):
        self._deadline = time.monotonic() + (math.inf if rule.max_seconds is None else rule.max_seconds)
        self._model, self._rule = model, rule
        self._is_multi_label = model.config.problem_type == "multi_label_classification"
        self._num_looks = 0
        self._scores: torch.Tensor | None = None
        self._last_look: tuple[list[int], torch.Tensor] | None = None  # numbers of the frames, and their logits

    def limit_chunk(self, chunk_size: int, encoder: ChunkEncoder) -> int:
        """Makes a chunk so small that it ends in time, by what the last one took."""
        if not self._num_looks or math.isinf(self._deadline) or not encoder.sec_per_picture:
            return chunk_size
        return min(chunk_size, max(1, int((self._deadline - time.monotonic()) / encoder.sec_per_picture)))

    def find_reason(self, plan: _Plan, number: int, seen: "_Seen") -> str | None:
        """Says why no frame after this one is needed, `"certain"` or `"time"`; `None` if more are."""
        if number == plan.last:  # whether the file ends well is still to be seen
            return None
        # A video that turned out to have another number of frames may have them in another order.
        if number in plan.ends and seen.has(plan.looks[plan.ends[number] - 1]):
            seen.encoder.flush()
            if self._is_settled(plan.looks[: plan.ends[number]], seen):
                return "certain"
        return "time" if self._num_looks and time.monotonic() > self._deadline else None

    def _is_settled(self, looks: list[list[int]], seen: "_Seen") -> bool:
        """Takes the looks that are due, if they can end it, and says whether the last two agree and are certain."""
        due, self._num_looks, is_settled = looks[self._num_looks :], len(looks), False
        for numbers in due if self._rule.may_be_certain else ():
            logits = seen.gather(numbers).classify(self._model)
            self._last_look = numbers, logits
            scores = to_scores(self._model, logits.float(), calibrated=True)
            is_settled = self._rule.is_settled(self._scores, scores, self._is_multi_label)
            self._scores = scores
        return is_settled

    def classify(self, features: VideoFeatures) -> torch.Tensor:
        """Logits `(num_labels,)` of what was seen in the end, mostly those of the last look."""
        if self._last_look is not None and self._last_look[0] == features.frame_numbers.tolist():
            return self._last_look[1]
        return features.classify(self._model)


class _Seen:
    """The frames of a video that have been decoded so far, and their features."""

    def __init__(self, pictures: PictureSource, encoder: ChunkEncoder):
        self._pictures, self.encoder = pictures, encoder
        self._places: dict[int, int] = {}  # of each frame, among the different pictures

    def add(self, number: int, picture: torch.Tensor, place: int, is_new: bool):
        """Takes a frame, whose picture may repeat that of another one."""
        self._places[number] = place
        if is_new:
            self.encoder.add(picture)

    def has(self, numbers: list[int]) -> bool:
        """Whether all frames with these numbers have been decoded."""
        return all(number in self._places for number in numbers)

    def list_encoded(self) -> list[int]:
        """The numbers of the frames whose features are there, ascending."""
        return sorted(number for number, place in self._places.items() if place < self.encoder.num_encoded)

    def gather(self, numbers: list[int]) -> VideoFeatures:
        """The features of the frames with these numbers."""
        metadata = copy.copy(self._pictures.metadata)
        metadata.frames_indices = numbers
        return gather_features(self.encoder.features, [self._places[number] for number in numbers], metadata)


def _number_pictures(pictures: PictureSource, rule: StopRule, finder: RepeatFinder) -> Generator[tuple]:
    """
    Yields the plan, the number of a frame, its picture, the number of the picture, and whether that is new, round by
    round.
    """
    plan: _Plan | None = None

    def plan_rounds(numbers: list[int]) -> list[list[int]]:
        nonlocal plan
        plan = _Plan(numbers, rule)
        return plan.rounds

    for number, picture in pictures.iter_rounds(plan_rounds):
        yield plan, number, picture, *finder.find(picture)


@torch.no_grad()
def classify_until_certain(
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    video: VideoSource | Sequence[np.ndarray],
    rule: StopRule,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    frames_per_chunk: int | None = None,
    repeat_threshold: float | None = None,
    progress: bool = False,
) -> tuple[VideoFeatures, torch.Tensor, str]:
    """
    Looks at as many frames as a rule asks for, coarse to fine, while a thread decodes them.

    Args:
        model, processor, video, num_frames, fps, frames_per_chunk, repeat_threshold, progress:
            As in [`encode_video`]; `num_frames` and `fps` say which frames there are to look at.
        rule (`StopRule`): When to stop.

    Returns:
        The features of the frames looked at, their logits `(num_labels,)`, and why there are no more: `"certain"`,
        `"time"` or `"all frames"`.

    Raises:
        VideoDecodeError, ValueError: As [`encode_video`].
    """
    looker, stopped = _Looker(model, rule), "all frames"
    if model.training:
        raise ValueError("The model is in training mode; call `model.eval()` first.")
    chunk_size = choose_chunk_size(model, processor.pixel_settings, frames_per_chunk)
    pictures = PictureSource(processor, video, num_frames, fps)
    seen = _Seen(pictures, ChunkEncoder(model, pictures.pixels, chunk_size))
    numbered = _number_pictures(pictures, rule, RepeatFinder(repeat_threshold))
    # After a look that may be the last one, decoding more would only take time from the backbone.
    pauses_after = (lambda item: item[1] in item[0].ends) if rule.may_be_certain else (lambda item: False)
    with (
        tqdm(unit="frame", disable=not progress) as bar,
        Prefetcher(numbered, chunk_size, pauses_after) as items,
    ):
        for plan, number, *picture in items:
            bar.total = len(plan.looks[-1])
            bar.update()
            seen.encoder.chunk_size = looker.limit_chunk(chunk_size, seen.encoder)
            seen.add(number, *picture)
            if reason := looker.find_reason(plan, number, seen):
                stopped = reason
                break
    if stopped == "all frames":
        seen.encoder.flush()
    features = seen.gather(seen.list_encoded())
    return features, looker.classify(features), stopped
