"""
Frame features computed once and kept: the format on disk, its writer and its reader.

    FEATURES/
        feature_cache.json                  what made the features: `FeatureCacheInfo`
        SPLIT/shard-00000.safetensors       `videos_per_shard` videos of the split, in the order of the collection
        SPLIT/shard-00001.safetensors

A shard is a safetensors file. A clip is one view of a video; the views of a video follow each other.

    features        (frames, num_features)  float16 or float32: the frames of all the shard's clips, clip after clip
    position_ids    (frames,)               int32: index of each frame in its video
    ends            (clips,)                int64: where in `features` the frames of each clip end
    fps             (clips,)                float64: frames per second of the video, NaN where it does not tell
    labels          (videos,)               int64: index into the class names; (videos, classes) float32: multi-label

Its metadata holds `paths`, a JSON list with the source of each video, and `skipped`, a JSON object from the source of
each video that could not be read, and so is in none of the tensors, to the reason.
"""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Dataset

from ..frame_sampling_vtn import sample_clip


FORMAT_VERSION = 1
DTYPES = {"float16": torch.float16, "float32": torch.float32}
_INFO_NAME = "feature_cache.json"


def hash_weights(module: nn.Module) -> str:
    """SHA-256 of the names and values (as float32) of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class FeatureCacheInfo:
    """
    What made the features of a cache. Features of another backbone or of other pixels look the same, and are of no
    use; so whoever adds to a cache or trains on it must agree with this.

    Args:
        backbone_name_or_path (`str`): Where the backbone came from; for people, and the default when training.
        backbone_sha256 (`str`): [`hash_weights`] of the backbone.
        processor (`dict`): `VTNVideoProcessor.to_json_string()`, read as JSON.
        class_names (`list[str]`): In the order of the labels.
        num_videos (`dict[str, int]`): Of each split, those that cannot be read included.
        videos_per_shard (`int`): Videos in each file but the last of a split.
        num_views (`int`): Clips per training video. The first is what the processor gives; the others are augmented.
        augmentation (`dict`, *optional*): How: the arguments of `ClipAugmentation`.
        dtype (`str`): Of the features, `"float16"` or `"float32"`.
        missing (`dict[str, list[str]]`): Names of the videos that were annotated, but not on disk, of splits with any.
        format_version (`int`): Of the files.
    """

    backbone_name_or_path: str
    backbone_sha256: str
    processor: dict[str, Any]
    class_names: list[str]
    num_videos: dict[str, int]
    videos_per_shard: int
    num_views: int = 1
    augmentation: dict[str, Any] | None = None
    dtype: str = "float16"
    missing: dict[str, list[str]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @classmethod
    def load(cls, root: str | Path) -> "FeatureCacheInfo":
        """
        Raises:
            FileNotFoundError: If `root` is no cache.
            ValueError: If it was written by a newer version of this file.
        """
        path = Path(root, _INFO_NAME)
        if not path.is_file():
            raise FileNotFoundError(f"{root} holds no cached features: {_INFO_NAME} is missing.")
        info = json.loads(path.read_text(encoding="utf-8"))
        if info["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{path} has the format {info['format_version']}, this version of vtn_hf reads {FORMAT_VERSION}."
            )
        return cls(**info)

    def save(self, root: str | Path):
        """
        Begins a cache, or makes sure that the one in `root` is of the same kind.

        Raises:
            ValueError: If it is of another kind; says what differs.
        """
        path = Path(root, _INFO_NAME)
        if path.is_file():
            existing = self.load(root)
            differences = [
                f"{each.name} {getattr(existing, each.name)!r}, not {getattr(self, each.name)!r}"
                for each in fields(self)
                if getattr(existing, each.name) != getattr(self, each.name)
            ]
            if differences:
                raise ValueError(f"{root} holds other features: {'; '.join(differences)}. Choose another folder.")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, lambda unfinished: unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n"))

    def check(self, backbone: nn.Module):
        """
        Makes sure that the backbone of a model is the one that computed the features.

        Raises:
            ValueError: If it is not.
        """
        found = hash_weights(backbone)
        if found != self.backbone_sha256:
            raise ValueError(
                f"The features were computed by {self.backbone_name_or_path} with weights "
                f"{self.backbone_sha256[:12]}…, but the backbone of the model has weights {found[:12]}…."
            )

    def list_shards(self, root: str | Path, split: str) -> list[Path]:
        """Where the shards of a split are, or will be."""
        num_shards = math.ceil(self.num_videos[split] / self.videos_per_shard)
        return [Path(root, split, f"shard-{number:05d}.safetensors") for number in range(num_shards)]


def write_shard(path: Path, videos: list[dict[str, Any]], dtype: str = "float16"):
    """
    Writes a shard; it appears under its name when it is complete.

    Args:
        path (`Path`): One of [`FeatureCacheInfo.list_shards`].
        videos (`list[dict]`): One per video, with `path` and either `error`, the reason why there is nothing else, or
            `label` (int, or one float per class), `fps` (float or `None`), and `clips`: pairs of features
            `(frames, features)` and position ids `(frames,)`.
        dtype (`str`, *optional*, defaults to `"float16"`): Of the features on disk.

    Raises:
        ValueError: If a feature does not fit into `dtype`, or is not a number.
    """
    skipped = {video["path"]: video["error"] for video in videos if "error" in video}
    videos = [video for video in videos if "error" not in video]
    for video in videos:
        for features, _ in video["clips"]:
            if not features.to(DTYPES[dtype]).isfinite().all():
                raise ValueError(
                    f"The features of {video['path']} reach {features.abs().max():g}, which {dtype} cannot hold; "
                    "use another dtype."
                )
    clips = [clip for video in videos for clip in video["clips"]]
    tensors = {
        "features": torch.cat([features.to(DTYPES[dtype]) for features, _ in clips]) if clips else torch.empty(0, 0),
        "position_ids": torch.cat([position_ids.int() for _, position_ids in clips]) if clips else torch.empty(0),
        "ends": torch.tensor([len(features) for features, _ in clips], dtype=torch.int64).cumsum(0),
        "fps": torch.tensor(
            [np.nan if video["fps"] is None else video["fps"] for video in videos for _ in video["clips"]],
            dtype=torch.float64,
        ),
        "labels": torch.as_tensor(np.array([video["label"] for video in videos])),
    }
    metadata = {"paths": json.dumps([video["path"] for video in videos]), "skipped": json.dumps(skipped)}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, lambda unfinished: save_file(tensors, unfinished, metadata))


def read_shard_paths(path: Path) -> tuple[list[str], dict[str, str]]:
    """The sources of the videos in a shard, and those that were skipped with the reason."""
    metadata = _open_shard(path).metadata()
    return json.loads(metadata["paths"]), json.loads(metadata["skipped"])


class CachedClips(Dataset):
    """
    One split of a cache as training examples. The features stay on disk and are mapped into memory, so a collection
    may be larger than that.

    Args:
        root (`str` or `Path`):
            The cache.
        split (`str`):
            Name of a folder in it.
        num_frames (`int`, *optional*):
            Frames of a training clip, out of the cached ones, at random places as [`ClipTransform`] takes them.
            Without it all frames are used: the way to evaluate, and cheap enough to train.
        clip_duration_sec (`float`, *optional*):
            Length of a training clip in seconds. Defaults to the whole video.
        seed (`int`, *optional*, defaults to 0):
            Seed of everything that is drawn; with it count the epoch and the number of the example.

    Raises:
        ValueError: If the cache has no such split, the split is not complete, or none of its videos could be read.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        num_frames: int | None = None,
        clip_duration_sec: float | None = None,
        seed: int = 0,
    ):
        self.num_frames = num_frames
        self.clip_duration_sec = clip_duration_sec
        self.seed = seed
        # In shared memory, so that workers that outlive an epoch learn of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        info = FeatureCacheInfo.load(root)
        if split not in info.num_videos:
            raise ValueError(f"{root} holds features of {', '.join(info.num_videos)}, not of {split!r}.")
        self._shards = info.list_shards(root, split)
        if missing := sum(not path.is_file() for path in self._shards):
            raise ValueError(
                f"{missing} of {len(self._shards)} shards of {Path(root, split)} are missing: the extraction is not "
                "finished. The same command goes on with it."
            )
        self.paths: list[str] = []
        self.skipped: dict[str, str] = {}
        # Of each video: its shard, and its first clip and number of clips there; of each shard: where its clips end.
        self._videos: list[tuple[int, int, int]] = []
        self._ends, self._fps, labels = [], [], []
        for number, path in enumerate(self._shards):
            shard = _open_shard(path)
            paths, skipped = read_shard_paths(path)
            ends = shard.get_tensor("ends").tolist()
            num_views = len(ends) // max(len(paths), 1)
            self._videos += [(number, video * num_views, num_views) for video in range(len(paths))]
            self._ends.append([0, *ends])
            self._fps.append(shard.get_tensor("fps").tolist())
            labels.append(shard.get_tensor("labels"))
            self.paths += paths
            self.skipped |= skipped
        if not self.paths:
            raise ValueError(f"None of the {len(self.skipped)} videos of {Path(root, split)} could be read.")
        self.labels = torch.cat([label for label in labels if len(label)])

    def set_epoch(self, epoch: int):
        """Makes the next draws those of this epoch, in workers that run already too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """
        Returns:
            `dict`: `inputs_embeds` (frames, features) float32, `position_ids` (frames,) int64 and `labels`.
        """
        shard, first_clip, num_views = self._videos[index]
        epoch = self._epoch.item()
        # Each epoch sees another view of a video, and in each epoch all views are seen equally often.
        clip = first_clip + (epoch + index) % num_views
        begin, end = self._ends[shard][clip : clip + 2]
        file = _open_shard(self._shards[shard])
        features = file.get_slice("features")[begin:end].float()
        position_ids = file.get_slice("position_ids")[begin:end].long()
        if self.num_frames is not None:
            chosen = self._sample_clip(position_ids.numpy(), self._fps[shard][clip], [self.seed, epoch, index])
            features = features[chosen]
            # Positions count from the start of the clip, as in the original.
            position_ids = position_ids[chosen] - position_ids[chosen[0]]
        return {"inputs_embeds": features, "position_ids": position_ids, "labels": self.labels[index]}

    def _sample_clip(self, position_ids: np.ndarray, fps: float, seed: list[int]) -> np.ndarray:
        span = None
        if self.clip_duration_sec is not None:
            if np.isnan(fps):
                raise ValueError("A clip of some seconds needs the frame rate of the video, which it does not tell.")
            span = self.clip_duration_sec * fps
        wanted = sample_clip(int(position_ids[-1]) + 1, self.num_frames, span, np.random.default_rng(seed))
        return np.searchsorted(position_ids, wanted)


# Few at a time, as the system limits how many files a process may have open; opening one reads its header only.
@lru_cache(maxsize=64)
def _open_shard(path: Path):
    return safe_open(path, framework="pt")


def _write_whole(path: Path, write):
    """A file that is there is complete: `write` fills another one, which then gets the name."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
