"""From rows of a `datasets.Dataset` to batches: videos are decoded in the worker that uses them."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import get_worker_info

from ..pixels_vtn import PixelSettings
from ..video_decoding_vtn import TimedVideoMetadata, VideoDecodeError, VideoSource
from ..video_processing_vtn import ChooseView, VTNVideoProcessor, load_video
from .augmentation import ClipAugmentation, ClipMixing
from .clip_lengths import ClipLength, check_length, draw_length
from .clip_sampling import sample_clip
from .coverage import NO_LABEL, SkippedVideos
from .file_pool import limit_memory
from .listing import name_segment
from .rows import find_label, find_label_vector, find_sources
from .segments import VideoSegment


# Memory that a data worker may use for decoding, beside the frames.
_WORKER_GIB = 4
# Draws the length of clips, in the place of the number of a repeat.
_OF_LENGTHS = 2**32 - 1


class ClipTransform:
    """
    Turns a batch of rows with the columns `video` and `label` into model inputs, for `Dataset.with_transform`; with
    `start_sec` and `end_sec` beside them, a row is this part of its video. What the columns may hold is said by
    [`vtn_hf.data.rows.find_source`], [`find_label`] and [`find_label_vector`].

    What it draws for a video depends on the seed, the epoch and the name of the video (column `name`, or else its
    path), and on nothing else: not on the worker, the process, the batch or what was drawn before. So a run that is
    stopped and continued draws what the uninterrupted one does.

    Args:
        processor (`VTNVideoProcessor`):
            Gives the pixels.
        num_frames (`int` or `tuple[int, int]`, *optional*):
            Frames of a training clip, at random places of the video, as in the paper; of two numbers, one in between
            for each video, of a shorter one all frames, so that the model learns to do with few and with many. Without
            it the whole video is used, as the processor samples it: the way to evaluate.
        clip_duration_sec (`float`, *optional*):
            Length of a training clip in seconds. Defaults to the whole video.
        seed (`int`, *optional*, defaults to 0):
            Non-negative seed of everything that is drawn.
        num_labels (`int`, *optional*):
            Turns labels into vectors of this many zeros and ones, which several labels per video and mixing need.
        skipped (`SkippedVideos`, *optional*):
            Notes the videos that cannot be decoded. In training they are left out of the batch; in evaluation, where
            batches must stay whole, a black frame with the label -100 takes their place, which counts nowhere. (So it
            does in training if nothing else is left of a batch.) Without it, such a video is an error.
        augmentation (`ClipAugmentation`, *optional*):
            Changes training clips.
        num_repeats (`int`, *optional*, defaults to 1):
            Clips per video in training (repeated augmentation), drawn independently; the video is read once, unless
            libswscale makes the pictures of augmented clips.
        mixing (`ClipMixing`, *optional*):
            Mixes the training clips of a batch.

    Raises:
        ValueError: If `mixing` is to be without `num_labels`, or there is no such number of frames.
    """

    def __init__(
        self,
        processor: VTNVideoProcessor,
        num_frames: ClipLength | None = None,
        clip_duration_sec: float | None = None,
        seed: int = 0,
        num_labels: int | None = None,
        skipped: SkippedVideos | None = None,
        augmentation: ClipAugmentation | None = None,
        num_repeats: int = 1,
        mixing: ClipMixing | None = None,
    ):
        if mixing is not None and num_labels is None:
            raise ValueError("Mixing needs `num_labels`.")
        if num_frames is not None:
            check_length(num_frames)
        self.processor = processor
        self.num_frames = num_frames
        self.clip_duration_sec = clip_duration_sec
        self.seed = seed
        self.num_labels = num_labels
        self.skipped = skipped
        self.augmentation = augmentation
        self.num_repeats = num_repeats
        self.mixing = mixing
        self._is_limited = False
        # In shared memory, so that workers that outlive an epoch learn of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __deepcopy__(self, memo: dict) -> "ClipTransform":
        # A copy of the data set is in the same epoch.
        return self

    def set_epoch(self, epoch: int):
        """Makes the next draws those of this epoch, in workers that run already too."""
        self._epoch.fill_(epoch)

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        self._limit_worker()
        sources = find_sources(rows)
        names = rows.get("name") or [_name(source) for source in sources]
        batch_name = None if self.mixing is None else " ".join(names)  # clips that are mixed are of one length
        examples = []
        for source, label, name in zip(sources, rows["label"], names, strict=True):
            label = self._find_label(label, name)
            loaded = self._load(source, name, batch_name or name)
            if not loaded and self.num_frames is None:
                loaded, label = [self._make_stand_in()], _hide(label)
            examples += [inputs | {"labels": label} for inputs in loaded]
        if not examples:
            examples = [self._make_stand_in() | {"labels": _hide(label)}]
        elif self.mixing is not None and self.num_frames is not None:
            self._mix(examples, self._make_generator(batch_name))
        return {key: [example[key] for example in examples] for key in examples[0]}

    def _limit_worker(self):
        """Limits the memory of a worker process, so that a file that makes FFmpeg ask for more fails alone."""
        if not self._is_limited and get_worker_info() is not None:
            limit_memory(self.processor.limits.max_bytes / 2**30 + _WORKER_GIB)
            self._is_limited = True

    def _make_generator(self, name: str, repeat: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, self._epoch.item(), zlib.crc32(name.encode()), repeat])

    def _load(self, source: VideoSource, name: str, length_name: str) -> list[dict[str, torch.Tensor]]:
        """The inputs from a video: one for evaluation, `num_repeats` for training, none if it is skipped."""
        try:
            if self.num_frames is None:
                return [self._load_whole(source)]
            num_frames = draw_length(self.num_frames, self._make_generator(length_name, _OF_LENGTHS))
            return self._load_clips(source, name, num_frames)
        except VideoDecodeError as error:
            if self.skipped is None:
                raise
            self.skipped.add(name, str(error))
            return []

    def _load_whole(self, source: VideoSource) -> dict[str, torch.Tensor]:
        inputs = self.processor(source, return_tensors="pt")
        return {"pixel_values": inputs["pixel_values"][0], "position_ids": inputs["position_ids"][0]}

    def _load_clips(self, source: VideoSource, name: str, num_frames: int) -> list[dict[str, torch.Tensor]]:
        generators = [self._make_generator(name, repeat) for repeat in range(self.num_repeats)]
        pixels = self.processor.pixel_settings
        if self.augmentation is None:
            return self._load_together(source, num_frames, generators, pixels)
        bare = replace(pixels, do_rescale=False, do_normalize=False, do_flip_channel_order=False)
        if self.num_repeats > 1 and pixels.pixel_protocol != "libswscale":
            # Whole frames, so that the video is decoded once.
            whole = replace(bare, do_resize=False, do_center_crop=False)
            clips = self._load_together(source, num_frames, generators, whole)
            take: Callable[[torch.Tensor, np.random.Generator], torch.Tensor] = self.augmentation
        else:
            # Only the part of each frame that a clip is to show.
            clips = []
            for generator in generators:
                choose_view = partial(self.augmentation.choose_view, generator=generator)
                clips += self._load_together(source, num_frames, [generator], bare, choose_view)
            take = self.augmentation.change
        for clip, generator in zip(clips, generators, strict=True):
            clip["pixel_values"] = pixels.normalize(take(clip["pixel_values"], generator))
        return clips

    def _load_together(
        self,
        source: VideoSource,
        num_frames: int,
        generators: list[np.random.Generator],
        pixels: PixelSettings,
        choose_view: ChooseView | None = None,
    ) -> list[dict[str, torch.Tensor]]:
        """Loads a clip for each generator, all in one pass through the video."""

        def choose(metadata: TimedVideoMetadata) -> np.ndarray:
            return np.concatenate([self._sample_clip(metadata, num_frames, generator) for generator in generators])

        pixel_values, metadata = load_video(source, choose, pixels, self.processor.limits, choose_view=choose_view)
        numbers = torch.as_tensor(np.asarray(metadata.frames_indices)).chunk(len(generators))
        return [
            # Positions count from the start of the clip, as in the original.
            {"pixel_values": clip, "position_ids": indices - indices[0]}
            for clip, indices in zip(pixel_values.chunk(len(generators)), numbers, strict=True)
        ]

    def _sample_clip(
        self, metadata: TimedVideoMetadata, num_frames: int, generator: np.random.Generator
    ) -> np.ndarray:
        total = metadata.total_num_frames
        if isinstance(self.num_frames, tuple) and self.mixing is None:
            num_frames = min(num_frames, total)
        if self.clip_duration_sec is None:
            return sample_clip(total, num_frames, generator=generator)
        if metadata.fps is None:
            raise VideoDecodeError("A clip of some seconds needs the frame rate of the video, which it does not tell.")
        span = self.clip_duration_sec * metadata.fps
        return sample_clip(total, num_frames, span, generator, metadata.frame_times)

    def _make_stand_in(self) -> dict[str, torch.Tensor]:
        """Black frames in the place of a video that cannot be decoded."""
        num_frames = self.num_frames if isinstance(self.num_frames, int) else 1
        frames = np.zeros((num_frames, 8, 8, 3), dtype=np.uint8)
        inputs = self.processor(frames, do_sample_frames=False, return_tensors="pt")
        return {"pixel_values": inputs["pixel_values"][0], "position_ids": torch.arange(num_frames)}

    def _find_label(self, label: Any, name: str) -> int | float | torch.Tensor:
        return find_label(label, name) if self.num_labels is None else find_label_vector(label, self.num_labels, name)

    def _mix(self, examples: list[dict[str, Any]], generator: np.random.Generator):
        clips, targets = (torch.stack([example[key] for example in examples]) for key in ("pixel_values", "labels"))
        for example, clip, target in zip(examples, *self.mixing(clips, targets, generator), strict=True):
            example["pixel_values"], example["labels"] = clip, target


def _hide(label: int | float | torch.Tensor) -> int | torch.Tensor:
    """The label of a video that takes no part."""
    return NO_LABEL if isinstance(label, int) else torch.full_like(torch.as_tensor(label), NO_LABEL)


def _name(source: VideoSource) -> str:
    """A name for a video whose row has none."""
    if isinstance(source, VideoSegment):
        return name_segment(_name(source.source), source.start_sec, source.end_sec)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes {zlib.crc32(source)}"
    return str(source)


def collate_videos(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """
    Puts examples of [`ClipTransform`] or [`CachedClips`] into a batch; videos of unequal length are padded, with an
    `attention_mask`.

    Args:
        examples (`list[dict]`): Each with `pixel_values` (frames, channels, height, width) or `inputs_embeds` (frames,
            features), `position_ids` (frames,) and `labels`.

    Returns:
        `dict`: The arguments of [`VTNForVideoClassification`].
    """
    batch = {"labels": torch.from_numpy(np.array([example["labels"] for example in examples]))}
    lengths = [len(example["position_ids"]) for example in examples]
    for name in examples[0].keys() - {"labels"}:
        batch[name] = nn.utils.rnn.pad_sequence([example[name] for example in examples], batch_first=True)
    if len(set(lengths)) > 1:
        batch["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return batch
