"""
Frame features computed once and kept: the format on disk, its writer and its reader.

    FEATURES/
        feature_cache.json                  what made the features: `FeatureCacheInfo`
        videos.json                         which videos are in which split, and where: `CacheIndex`
        SPLIT/shard-00000.safetensors       some videos each; the folder is where they were put first
        SPLIT/shard-00001.safetensors

Shards are only added: what a video's features are is looked up in `videos.json`, which is written last. A shard is a
safetensors file. A clip is one view of a video; the views of a video follow each other.

    features        (frames, num_features)  float16, float32 or int8: the frames of all the shard's clips, clip after
                                            clip; with a grid (frames, tokens, num_features)
    scales          (frames, 1)             float32, with int8 only: what its features are multiples of; with a grid
                                            (frames, tokens, 1)
    position_ids    (frames,)               int32: index of each frame in its video
    ends            (clips,)                int64: where in `features` the frames of each clip end
    fps             (clips,)                float64: frames per second of the video, NaN where it does not tell

Its metadata holds `videos`, a JSON list of the fields of each [`CachedVideo`], also of those that could not be read.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Dataset

from ..modeling_vtn import VTNModel
from ..outputs import writing
from ..video_decoding_vtn import VideoSource
from .clip_lengths import ClipLength, check_length, draw_length
from .clip_sampling import sample_clip
from .listing import name_segment
from .rows import find_source
from .time_augmentation import TimeAugmentation, mix_videos


FORMAT_VERSION = 2
DTYPES = {"float16": torch.float16, "float32": torch.float32, "int8": torch.int8}
_INFO_NAME, _INDEX_NAME = "feature_cache.json", "videos.json"


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
        num_views (`int`): Clips per training video. The first is what the processor gives; the others are augmented.
        augmentation (`dict`, *optional*): How: the arguments of `ClipAugmentation`.
        dtype (`str`): Of the features, `"float16"`, `"float32"` or `"int8"`.
        frame_grid (`int`, *optional*): As in [`VTNConfig`].
        format_version (`int`): Of the files.
    """

    backbone_name_or_path: str
    backbone_sha256: str
    processor: dict[str, Any]
    num_views: int = 1
    augmentation: dict[str, Any] | None = None
    dtype: str = "float16"
    frame_grid: int | None = None
    format_version: int = FORMAT_VERSION

    @classmethod
    def load(cls, root: str | Path) -> "FeatureCacheInfo":
        """
        Raises:
            FileNotFoundError: If `root` is no cache.
            ValueError: If it was written by another version of this file.
        """
        path = Path(root, _INFO_NAME)
        if not path.is_file():
            raise FileNotFoundError(f"{root} holds no cached features: {_INFO_NAME} is missing.")
        info = json.loads(path.read_text(encoding="utf-8"))
        if info["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{path} has the format {info['format_version']}, this version of vtn_hf reads {FORMAT_VERSION}; "
                "extract the features again."
            )
        return cls(**info)

    def save(self, root: str | Path):
        """
        Begins a cache, or makes sure that the one in `root` is of the same kind.

        Raises:
            ValueError: If it is of another kind; says what differs.
        """
        path = Path(root, _INFO_NAME)
        if not path.is_file():
            with writing(path) as unfinished:
                unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
            return
        # The same weights may lie elsewhere now.
        existing, now = asdict(self.load(root)), json.loads(json.dumps(asdict(self)))
        existing["backbone_name_or_path"] = now["backbone_name_or_path"]
        if differences := list(_list_differences(existing, now)):
            raise ValueError(
                f"{root} holds other features: {'; '.join(differences)}. Choose another folder, or delete them "
                "and begin anew (--overwrite)."
            )

    def check(self, model: VTNModel):
        """
        Makes sure that a model has the backbone that computed the features, and reads as many per frame.

        Raises:
            ValueError: If it does not.
        """
        if model.config.frame_grid != self.frame_grid:
            raise ValueError(
                f"The features have frame_grid={self.frame_grid}, but the model frame_grid={model.config.frame_grid}."
            )
        found = hash_weights(model.backbone)
        if found != self.backbone_sha256:
            raise ValueError(
                f"The features were computed by {self.backbone_name_or_path} with weights "
                f"{self.backbone_sha256[:12]}…, but the backbone of the model has weights {found[:12]}…."
            )


def _list_differences(existing: Any, now: Any, name: str = "") -> Iterator[str]:
    """In words; what only one of two dictionaries has is no difference, as versions of libraries have other fields."""
    if isinstance(existing, dict) and isinstance(now, dict):
        for key in existing.keys() & now.keys():
            yield from _list_differences(existing[key], now[key], f"{name}.{key}" if name else key)
    elif existing != now:
        yield f"{name} {existing!r}, not {now!r}"


@dataclass(frozen=True)
class CachedVideo:
    """
    A video of a cache, as it was when its features were computed.

    Args:
        path (`str`): Its source.
        label (`int` or `list[int]`): Its class or classes.
        name (`str`): What the collection calls it.
        num_bytes, modified_ns, sha256: Size of the file, when it was written (nanoseconds since 1970) and its content.
        error (`str`): Why it could not be read; else empty.
        final (`bool`): Whether another try would find the same error.
        shard (`str`): Path of its shard below the cache.
        first_clip, num_clips (`int`): Which clips of the shard are its own.
        start_sec, end_sec (`float`, *optional*): The part of the file that it is.
    """

    path: str
    label: int | list[int]
    name: str = ""
    num_bytes: int = 0
    modified_ns: int = 0
    sha256: str = ""
    error: str = ""
    final: bool = True
    shard: str = ""
    first_clip: int = 0
    num_clips: int = 0
    start_sec: float | None = None
    end_sec: float | None = None

    @property
    def source(self) -> VideoSource:
        """What to decode."""
        return find_source(self.path, self.name, self.start_sec, self.end_sec)


_IN_SHARD = [each.name for each in fields(CachedVideo) if each.name not in ("shard", "first_clip")]


@dataclass
class CacheIndex:
    """
    Which videos are in which split of a cache.

    Args:
        class_names (`list[str]`): In the order of the labels.
        splits (`dict[str, list[CachedVideo]]`): The videos of each split, those that could not be read included.
        missing (`dict[str, list[str]]`): Names of the videos that were listed, but not on disk.
        bad (`dict[str, dict[str, str]]`): Names of those that were known to be bad before, with the reasons.
    """

    class_names: list[str]
    splits: dict[str, list[CachedVideo]]
    missing: dict[str, list[str]] = field(default_factory=dict)
    bad: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, root: str | Path) -> "CacheIndex":
        """
        Raises:
            ValueError: If the extraction has not come to its end.
        """
        path = Path(root, _INDEX_NAME)
        if not path.is_file():
            raise ValueError(f"{path} is missing: the extraction is not finished. The same command goes on with it.")
        index = json.loads(path.read_text(encoding="utf-8"))
        splits = {split: [CachedVideo(**video) for video in videos] for split, videos in index.pop("splits").items()}
        return cls(splits=splits, **index)

    def save(self, root: str | Path):
        """Makes the cache one of these videos."""
        with writing(Path(root, _INDEX_NAME)) as unfinished:
            unfinished.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def pack_features(features: torch.Tensor, dtype: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Features `(…, num_features)` as they are on disk, and for int8 the scale of each vector `(…, 1)`."""
    if dtype != "int8":
        return features.to(DTYPES[dtype]), None
    # Of a vector of zeros any will do, but for zero.
    scales = (features.float().abs().amax(dim=-1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (features / scales).round().to(torch.int8), scales


def unpack_features(packed: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
    """Takes back [`pack_features`], as float32."""
    return packed.float() if scales is None else packed.float() * scales


def write_shard(path: Path, videos: list[dict[str, Any]], dtype: str = "float16"):
    """
    Writes a shard; it appears under its name when it is complete.

    Args:
        path (`Path`): `ROOT/SPLIT/shard-NUMBER.safetensors`.
        videos (`list[dict]`): One per video, with fields of [`CachedVideo`]; and if there is no `error` among them,
            with `fps` (float or `None`) and `clips`: pairs of features `(frames, features)`, or with a grid `(frames,
            tokens, features)`, and position ids `(frames,)`.
        dtype (`str`, *optional*, defaults to `"float16"`): Of the features on disk.

    Raises:
        ValueError: If a feature does not fit into `dtype`, or is no finite number.
    """
    for video in videos:
        for features, _ in video.get("clips", ()):
            if not features.isfinite().all():
                raise ValueError(
                    f"Of {video['path']} the backbone gives features that are infinite or not numbers; compute them "
                    "in float32, if they were not, or with another backbone."
                )
            if not unpack_features(*pack_features(features, dtype)).isfinite().all():
                raise ValueError(
                    f"The features of {video['path']} reach {features.abs().max():g}, which {dtype} cannot hold; "
                    "use another dtype."
                )
    clips = [clip for video in videos for clip in video.get("clips", ())]
    packed = [pack_features(features, dtype) for features, _ in clips]
    fps = [video["fps"] or np.nan for video in videos for _ in video.get("clips", ())]
    tensors = {
        "features": torch.cat([features for features, _ in packed]) if clips else torch.empty(0, 0),
        "position_ids": torch.cat([position_ids.int() for _, position_ids in clips]) if clips else torch.empty(0),
        "ends": torch.tensor([len(features) for features, _ in clips], dtype=torch.int64).cumsum(0),
        "fps": torch.tensor(fps, dtype=torch.float64),
    }
    if dtype == "int8" and clips:
        tensors["scales"] = torch.cat([scales for _, scales in packed])
    entries = [
        {name: video[name] for name in _IN_SHARD if name in video} | {"num_clips": len(video.get("clips", ()))}
        for video in videos
    ]
    with writing(path) as unfinished:
        save_file(tensors, unfinished, {"videos": json.dumps(entries)})


def read_shard(path: Path) -> list[CachedVideo]:
    """
    The videos of a shard.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            entries = json.loads(shard.metadata()["videos"])
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no shard of features, or damaged: {error}") from error
    videos, first_clip = [], 0
    for entry in entries:
        videos.append(CachedVideo(**entry, shard=f"{path.parent.name}/{path.name}", first_clip=first_clip))
        first_clip += entry["num_clips"]
    return videos


class CachedClips(Dataset):
    """
    One split of a cache as training examples. The features stay on disk and are mapped into memory, so a collection
    may be larger than that.

    Args:
        root (`str` or `Path`):
            The cache.
        split (`str`):
            Name of a split.
        num_frames (`int` or `tuple[int, int]`, *optional*):
            Frames of a training clip, out of the cached ones, at random places as [`ClipTransform`] takes them.
            Without it all frames are used: the way to evaluate, and cheap enough to train.
        clip_duration_sec (`float`, *optional*):
            Length of a training clip in seconds. Defaults to the whole video.
        seed (`int`, *optional*, defaults to 0):
            Seed of everything that is drawn; with it count the epoch and the number of the example.
        view (`int`, *optional*):
            Which view of each video. Defaults to another one in each epoch.
        time_augmentation (`TimeAugmentation`, *optional*):
            Draws which of the frames are used, and at which speed.
        feature_drop_prob (`float`, *optional*, defaults to 0.0):
            Probability with which a feature is left out, in all frames of a video alike; the others grow in
            proportion.
        mixup_alpha (`float`, *optional*, defaults to 0.0):
            Blends the videos of a batch, by [`mix_videos`]; 0 is off. Labels are then a share per class.

    Raises:
        ValueError: If the extraction is not finished, there is no such split, a shard is missing, or none of the
            videos could be read.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        num_frames: ClipLength | None = None,
        clip_duration_sec: float | None = None,
        seed: int = 0,
        view: int | None = None,
        time_augmentation: TimeAugmentation | None = None,
        feature_drop_prob: float = 0.0,
        mixup_alpha: float = 0.0,
    ):
        if num_frames is not None:
            check_length(num_frames)
        self.num_frames = num_frames
        self.clip_duration_sec = clip_duration_sec
        self.seed = seed
        self.view = view
        self.time_augmentation = time_augmentation
        self.feature_drop_prob = feature_drop_prob
        self.mixup_alpha = mixup_alpha
        # In shared memory, so that workers that outlive an epoch learn of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._root = Path(root)
        index = CacheIndex.load(root)
        if split not in index.splits:
            raise ValueError(f"{root} holds features of {', '.join(index.splits)}, not of {split!r}.")
        self.skipped = {video.path: video.error for video in index.splits[split] if video.error}
        self._videos = [video for video in index.splits[split] if not video.error]
        self._check_shards(split)
        self.paths = [
            video.path
            if (video.start_sec, video.end_sec) == (None, None)
            else name_segment(video.path, video.start_sec, video.end_sec)
            for video in self._videos
        ]
        self.sources = [video.source for video in self._videos]
        self.class_names = index.class_names
        self.labels = _stack_labels([video.label for video in self._videos], len(index.class_names))

    def _check_shards(self, split: str):
        shards = {video.shard for video in self._videos}
        if missing := sorted(shard for shard in shards if not (self._root / shard).is_file()):
            raise ValueError(
                f"{len(missing)} of {len(shards)} shards of {split} in {self._root} are missing ({missing[0]}). The "
                "same extraction computes them again."
            )
        if not self._videos:
            raise ValueError(f"None of the {len(self.skipped)} videos of {split} in {self._root} could be read.")

    def set_epoch(self, epoch: int):
        """Makes the next draws those of this epoch, in workers that run already too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """
        Returns:
            `dict`: `inputs_embeds` (frames, features) float32, with a grid (frames, tokens, features), `position_ids`
            (frames,) int64 and `labels`.
        """
        video = self._videos[index]
        epoch = self._epoch.item()
        # Each epoch sees another view of a video, and in each epoch all views are seen equally often.
        view = epoch + index if self.view is None else self.view
        clip = video.first_clip + view % video.num_clips
        path = self._root / video.shard
        shard = _Shard.open(path, path.stat().st_mtime_ns)
        begin, end = shard.ends[clip : clip + 2]
        features = shard.read_features(begin, end)
        position_ids = shard.file.get_slice("position_ids")[begin:end].long()
        generator = np.random.default_rng([self.seed, epoch, index])
        if self.num_frames is not None:
            chosen = self._sample_clip(position_ids.numpy(), shard.fps[clip], generator)
            features = features[chosen]
            # Positions count from the start of the clip, as in the original.
            position_ids = position_ids[chosen] - position_ids[chosen[0]]
        if self.time_augmentation is not None:
            chosen, places = self.time_augmentation(position_ids.numpy(), generator)
            features, position_ids = features[chosen], torch.from_numpy(places)
        if self.feature_drop_prob:
            is_kept = generator.random(features.shape[-1]) >= self.feature_drop_prob
            features = features * (torch.from_numpy(is_kept) / (1 - self.feature_drop_prob))
        return {"inputs_embeds": features, "position_ids": position_ids, "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        """A batch, mixed if that is wanted."""
        examples = [self[index] for index in indices]
        if not self.mixup_alpha:
            return examples
        generator = np.random.default_rng([self.seed, self._epoch.item(), *indices])
        return mix_videos(examples, len(self.class_names), self.mixup_alpha, generator)

    def _sample_clip(self, position_ids: np.ndarray, fps: float, generator: np.random.Generator) -> np.ndarray:
        span = None
        if self.clip_duration_sec is not None:
            if np.isnan(fps):
                raise ValueError("A clip of some seconds needs the frame rate of the video, which it does not tell.")
            span = self.clip_duration_sec * fps
        num_frames = draw_length(self.num_frames, generator)
        if isinstance(self.num_frames, tuple):
            num_frames = min(num_frames, len(position_ids))
        wanted = sample_clip(int(position_ids[-1]) + 1, num_frames, span, generator)
        return np.searchsorted(position_ids, wanted)


def _stack_labels(labels: list[int | list[int]], num_classes: int) -> torch.Tensor:
    """Classes as (videos,) int64; or, where a video may have several, zeros and ones (videos, classes) float32."""
    if not isinstance(labels[0], list):
        return torch.tensor(labels)
    vectors = torch.zeros(len(labels), num_classes)
    for vector, classes in zip(vectors, labels, strict=True):
        vector[classes] = 1.0
    return vectors


class _Shard:
    """An open shard, and what is small in it."""

    def __init__(self, path: Path):
        self.file = safe_open(path, framework="pt")
        self.ends = [0, *self.file.get_tensor("ends").tolist()]
        self.fps = self.file.get_tensor("fps").tolist()
        self._names = set(self.file.keys())

    def read_features(self, begin: int, end: int) -> torch.Tensor:
        """Of these frames, as float32."""
        packed, scales = (
            self.file.get_slice(name)[begin:end] if name in self._names else None for name in ("features", "scales")
        )
        return unpack_features(packed, scales)

    # Few at a time, as the system limits how many files a process may have open; opening one reads little.
    @staticmethod
    @lru_cache(maxsize=64)
    def open(path: Path, modified_ns: int) -> "_Shard":
        return _Shard(path)
