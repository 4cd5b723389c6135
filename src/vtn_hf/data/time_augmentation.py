"""Random changes of training videos in time, of features as of pixels, and blends of videos of unequal length."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class TimeAugmentation:
    """
    Draws which frames of a video are used, and at which speed it plays.

    Args:
        min_share (`float`, *optional*, defaults to 1.0): Least share of the video that is used, a part anywhere in it.
        drop_prob (`float`, *optional*, defaults to 0.0): Probability with which each frame of that part is left out;
            one is always kept.
        speed_range (`tuple[float, float]`, *optional*, defaults to `(1.0, 1.0)`): Least and greatest factor of the
            speed, drawn evenly on a logarithmic scale: positions are divided by it.

    Raises:
        ValueError: If a number lies outside of what it may be.
    """

    min_share: float = 1.0
    drop_prob: float = 0.0
    speed_range: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self):
        if not 0 < self.min_share <= 1:
            raise ValueError(f"`min_share` must be above 0 and at most 1, got {self.min_share}.")
        if not 0 <= self.drop_prob < 1:
            raise ValueError(f"`drop_prob` must be at least 0 and below 1, got {self.drop_prob}.")
        if len(self.speed_range) != 2 or not 0 < self.speed_range[0] <= self.speed_range[1]:
            raise ValueError(f"`speed_range` must be two positive factors that rise, got {self.speed_range}.")

    def __call__(self, position_ids: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """
        Args:
            position_ids (`np.ndarray` of shape `(frames,)`): Where each frame is in the video, rising.
            generator (`np.random.Generator`): Draws everything.

        Returns:
            Indices of the frames to use `(chosen frames,)`, and where they are in what is played `(chosen frames,)`:
            counted from the start of the part, as in the original.
        """
        num_frames = len(position_ids)
        length = max(1, round(num_frames * generator.uniform(self.min_share, 1)))
        start = int(generator.integers(num_frames - length, endpoint=True))
        is_kept = generator.random(length) >= self.drop_prob
        is_kept[generator.integers(length)] |= not is_kept.any()
        chosen = start + np.flatnonzero(is_kept)
        speed = np.exp(generator.uniform(*np.log(self.speed_range)))
        return chosen, np.round((position_ids[chosen] - position_ids[start]) / speed).astype(np.int64)


def mix_videos(
    examples: list[dict[str, Any]], num_labels: int, alpha: float, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """
    Mixup of whole videos of any length: each one is blended with another one of the batch, which is played in the same
    time, and their labels alike. The larger share is its own, and so are the positions of its frames.

    Args:
        examples (`list[dict]`): Each with `inputs_embeds` or `pixel_values` `(frames, …)`, `position_ids` and
            `labels`: a class, or a number per class `(num_labels,)`.
        num_labels (`int`): Classes.
        alpha (`float`): Parameter of the beta distribution that the shares are drawn from.
        generator (`np.random.Generator`): Draws everything.

    Returns:
        `list[dict]`: With labels `(num_labels,)`, float.
    """
    partners = generator.permutation(len(examples))
    shares = generator.beta(alpha, alpha, size=len(examples))
    vectors = [_to_vector(example["labels"], num_labels) for example in examples]
    mixed = []
    for example, own, partner, share in zip(examples, vectors, partners, np.maximum(shares, 1 - shares), strict=True):
        blended = example | {"labels": torch.lerp(vectors[partner], own, float(share))}
        for name in example.keys() & {"inputs_embeds", "pixel_values"}:
            blended[name] = _blend(example[name], examples[partner][name], float(share))
        mixed.append(blended)
    return mixed


def _to_vector(label: int | torch.Tensor, num_labels: int) -> torch.Tensor:
    label = torch.as_tensor(label)
    return nn.functional.one_hot(label, num_labels).float() if label.ndim == 0 else label.float()


def _blend(frames: torch.Tensor, others: torch.Tensor, share: float) -> torch.Tensor:
    """Of two videos `(frames, …)` of unequal length, in the length and the dtype of the first."""
    places = torch.linspace(0, len(others) - 1, len(frames)).round().long()
    mixed = torch.lerp(others[places].float(), frames.float(), share)
    return mixed if frames.is_floating_point() else mixed.round().to(frames.dtype)
