"""What can be done for rare classes: show them as often as the others, or give them more weight in the loss."""

from collections.abc import Iterator, Sequence

import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import Sampler

from ..data.feature_cache import CachedClips


CLASS_BALANCES = ("none", "sampler", "loss")


def read_labels(videos: Dataset | CachedClips) -> list[list[int]]:
    """
    The classes of each video of a data set, without decoding any.

    Raises:
        ValueError: If it is a stream, which does not tell them beforehand.
    """
    if isinstance(videos, IterableDataset):
        raise ValueError(
            "`class_balance` needs to know the classes of all videos beforehand, which a stream does not tell; leave "
            "it out, or `streaming`, or unpack the tar files."
        )
    if isinstance(videos, CachedClips):
        labels = videos.labels
        return [row.nonzero().flatten().tolist() for row in labels] if labels.ndim == 2 else labels[:, None].tolist()
    return [label if isinstance(label, list) else [label] for label in videos.with_format(None)["label"]]


def compute_class_weights(labels: Sequence[Sequence[int]], num_classes: int) -> torch.Tensor:
    """
    `(num_classes,)`: the number of videos of a mean class over that of each class, so that over all videos the mean
    weight is 1; 1 for a class without videos.
    """
    counts = torch.bincount(torch.tensor([label for each in labels for label in each]), minlength=num_classes).float()
    return (counts.sum() / (counts > 0).sum() / counts).where(counts > 0, 1.0)


class BalancedSampler(Sampler[int]):
    """
    Draws videos, with replacement, so that all classes are seen equally often: as many draws per epoch as there are
    videos. All processes draw the same.

    Args:
        labels (`Sequence[Sequence[int]]`): The classes of each video; one of several counts by its rarest.
        num_classes (`int`): Number of classes.
        seed (`int`): Seed of the draws; the epoch is added to it.
    """

    def __init__(self, labels: Sequence[Sequence[int]], num_classes: int, seed: int):
        weights = compute_class_weights(labels, num_classes)
        self._weights = torch.tensor([max((weights[label].item() for label in each), default=1.0) for each in labels])
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int):
        """Makes the next draws those of this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        yield from torch.multinomial(self._weights, len(self), replacement=True, generator=generator).tolist()
