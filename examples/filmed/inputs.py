"""Frames of a filmed collection in memory: features of a frozen backbone, or small pictures."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from vtn_hf import VTNVideoProcessor
from vtn_hf.data.augmentation import ClipAugmentation
from vtn_hf.data.time_augmentation import mix_videos


NUM_FRAMES = 32  # of a video, at most
TimeChange = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def make_processor(size: int, pictures: list[torch.Tensor] | None = None) -> VTNVideoProcessor:
    """Whole frames, squeezed to a square of `size` pixels; mean and deviation are those of the pictures given."""
    side = {"height": size, "width": size}
    processor = VTNVideoProcessor(num_frames=NUM_FRAMES, size=side, crop_size=side)
    if pictures is not None:
        values = torch.cat(pictures).float() / 255
        processor.image_mean, processor.image_std = values.mean().item(), values.std().item()
    return processor


@lru_cache
def load_pictures(paths: tuple[str, ...], size: int, cache: Path) -> list[dict[str, torch.Tensor]]:
    """Of each video `pixel_values` (frames, 3, size, size) uint8 and `position_ids` (frames,); decoded once."""
    if not cache.is_file():
        processor = make_processor(size).to_uint8_processor()
        videos = []
        for path in tqdm(paths, desc=f"pictures of {size} pixels", unit="video"):
            inputs = processor(path, return_tensors="pt")
            videos.append({"pixel_values": inputs["pixel_values"][0], "position_ids": inputs["position_ids"][0]})
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(videos, cache)
    return torch.load(cache)


class Pictures(Dataset):
    """
    Pictures of videos as [`vtn_hf.data.feature_cache.CachedClips`] gives features, all of it from memory.

    Args:
        videos: Of each, `pixel_values` and `position_ids`.
        labels: (videos,)
        seed: Of everything that is drawn; with it count the epoch and the number of the video.
        augmentation: Changes the pictures of a video.
        time_augmentation: Changes which frames are used.
        mixup_alpha: Of mixup; 0 is off.
    """

    def __init__(
        self,
        videos: list[dict[str, torch.Tensor]],
        labels: torch.Tensor,
        seed: int = 0,
        augmentation: ClipAugmentation | None = None,
        time_augmentation: TimeChange | None = None,
        mixup_alpha: float = 0.0,
    ):
        self.videos = videos
        self.labels = labels
        self.seed = seed
        self.augmentation = augmentation
        self.time_augmentation = time_augmentation
        self.mixup_alpha = mixup_alpha
        self.num_labels = int(labels.max()) + 1
        self.epoch = 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = np.random.default_rng([self.seed, self.epoch, index])
        pictures, position_ids = self.videos[index]["pixel_values"], self.videos[index]["position_ids"]
        if self.time_augmentation is not None:
            chosen, places = self.time_augmentation(position_ids.numpy(), generator)
            pictures, position_ids = pictures[chosen], torch.from_numpy(places)
        if self.augmentation is not None:
            pictures = self.augmentation(pictures, generator)
        return {"pixel_values": pictures, "position_ids": position_ids, "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        examples = [self[index] for index in indices]
        if not self.mixup_alpha:
            return examples
        generator = np.random.default_rng([self.seed, self.epoch, *indices])
        return mix_videos(examples, self.num_labels, self.mixup_alpha, generator)


class Shuffled(Dataset):
    """The same videos with their frames in random order, and positions as if that were the right one."""

    def __init__(self, videos: Dataset):
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        return [self._shuffle(example) for example in self.videos.__getitems__(indices)]

    @staticmethod
    def _shuffle(example: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        order = torch.randperm(len(example["position_ids"]))
        return example | {name: example[name][order] for name in example.keys() & {"inputs_embeds", "pixel_values"}}


def take_part(
    position_ids: np.ndarray, generator: np.random.Generator, *, number: int, num_parts: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """In the place of `TimeAugmentation`: part `number` of overlapping ones of equal length, spread over the video."""
    length = max(1, round(len(position_ids) * share))
    start = round((len(position_ids) - length) * number / (num_parts - 1))
    chosen = np.arange(start, start + length)
    return chosen, position_ids[chosen] - position_ids[start]
