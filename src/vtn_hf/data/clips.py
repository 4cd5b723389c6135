"""From rows of a `datasets.Dataset` to batches: videos are decoded in the worker that uses them."""

import zlib
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.video_utils import VideoMetadata

from ..frame_sampling_vtn import sample_clip
from ..video_decoding_vtn import VideoDecodeError, decode_video
from ..video_processing_vtn import VTNVideoProcessor


class ClipTransform:
    """
    Turns a batch of rows with the columns `video` and `label` into model inputs, for `Dataset.with_transform`.

    What it draws for a video depends on the seed, the epoch and the name of the video (column `name`, or else its
    path), and on nothing else: not on the worker, the process, the batch or what was drawn before. So a run that is
    stopped and continued draws what the uninterrupted one does.

    Args:
        processor (`VTNVideoProcessor`):
            Gives the pixels.
        num_frames (`int`, *optional*):
            Frames of a training clip, at random places of the video, as in the paper. Without it the whole video is
            used, as the processor samples it: the way to evaluate.
        clip_duration_sec (`float`, *optional*):
            Length of a training clip in seconds. Defaults to the whole video.
        seed (`int`, *optional*, defaults to 0):
            Non-negative seed of everything that is drawn.
    """

    def __init__(
        self,
        processor: VTNVideoProcessor,
        num_frames: int | None = None,
        clip_duration_sec: float | None = None,
        seed: int = 0,
    ):
        self.processor = processor
        self.num_frames = num_frames
        self.clip_duration_sec = clip_duration_sec
        self.seed = seed
        # In shared memory, so that workers that outlive an epoch learn of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __deepcopy__(self, memo: dict) -> "ClipTransform":
        # A copy of the data set is in the same epoch.
        return self

    def set_epoch(self, epoch: int):
        """Makes the next draws those of this epoch, in workers that run already too."""
        self._epoch.fill_(epoch)

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        names = rows.get("name") or [_name(video) for video in rows["video"]]
        videos = [
            self._load(video, self._make_generator(name)) for name, video in zip(names, rows["video"], strict=True)
        ]
        return {name: [video[name] for video in videos] for name in videos[0]} | {"labels": rows["label"]}

    def _make_generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, self._epoch.item(), zlib.crc32(name.encode())])

    def _load(self, video: dict[str, Any], generator: np.random.Generator) -> dict[str, torch.Tensor]:
        source = video["path"] if video["bytes"] is None else video["bytes"]
        if self.num_frames is None:
            inputs = self.processor(source, return_tensors="pt")
            return {"pixel_values": inputs["pixel_values"][0], "position_ids": inputs["position_ids"][0]}
        frames, metadata = decode_video(source, partial(self._sample_clip, generator=generator))
        inputs = self.processor(frames, do_sample_frames=False, return_tensors="pt")
        # Positions count from the start of the clip, as in the original.
        position_ids = torch.as_tensor(metadata.frames_indices) - metadata.frames_indices[0]
        return {"pixel_values": inputs["pixel_values"][0], "position_ids": position_ids}

    def _sample_clip(self, metadata: VideoMetadata, generator: np.random.Generator) -> np.ndarray:
        span = None
        if self.clip_duration_sec is not None:
            if metadata.fps is None:
                raise VideoDecodeError(
                    "A clip of some seconds needs the frame rate of the video, which it does not tell."
                )
            span = self.clip_duration_sec * metadata.fps
        return sample_clip(metadata.total_num_frames, self.num_frames, span, generator)


def _name(video: dict[str, Any]) -> str:
    """What to call a video whose row has no name."""
    return video["path"] if video["bytes"] is None else f"{len(video['bytes'])} bytes {zlib.crc32(video['bytes'])}"


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
    batch = {"labels": torch.as_tensor(np.array([example["labels"] for example in examples]))}
    lengths = [len(example["position_ids"]) for example in examples]
    for name in examples[0].keys() - {"labels"}:
        batch[name] = nn.utils.rnn.pad_sequence([example[name] for example in examples], batch_first=True)
    if len(set(lengths)) > 1:
        batch["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return batch
