"""From rows of a `datasets.Dataset` to batches: videos are decoded in the worker that uses them."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ..frame_sampling_vtn import sample_clip
from ..video_decoding_vtn import VideoDecodeError, decode_video
from ..video_processing_vtn import VTNVideoProcessor


class ClipTransform:
    """
    Turns a batch of rows with the columns `video` and `label` into model inputs, for `Dataset.set_transform`.

    Args:
        processor (`VTNVideoProcessor`):
            Gives the pixels.
        num_frames (`int`, *optional*):
            Frames of a training clip, at random places of the video, as in the paper. Without it the whole video is
            used, as the processor samples it: the way to evaluate.
        clip_duration_sec (`float`, *optional*):
            Length of a training clip in seconds. Defaults to the whole video.
    """

    def __init__(
        self, processor: VTNVideoProcessor, num_frames: int | None = None, clip_duration_sec: float | None = None
    ):
        self.processor = processor
        self.num_frames = num_frames
        self.clip_duration_sec = clip_duration_sec

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        videos = [self._load(video) for video in rows["video"]]
        return {name: [video[name] for video in videos] for name in videos[0]} | {"labels": rows["label"]}

    def _load(self, video: dict[str, Any]) -> dict[str, torch.Tensor]:
        source = video["path"] if video["bytes"] is None else video["bytes"]
        if self.num_frames is None:
            inputs = self.processor(source, return_tensors="pt")
            return {"pixel_values": inputs["pixel_values"][0], "position_ids": inputs["position_ids"][0]}
        frames, metadata = decode_video(source, self._sample_clip)
        inputs = self.processor(frames, do_sample_frames=False, return_tensors="pt")
        # Positions count from the start of the clip, as in the original.
        position_ids = torch.as_tensor(metadata.frames_indices) - metadata.frames_indices[0]
        return {"pixel_values": inputs["pixel_values"][0], "position_ids": position_ids}

    def _sample_clip(self, metadata) -> np.ndarray:
        span = None
        if self.clip_duration_sec is not None:
            if metadata.fps is None:
                raise VideoDecodeError(
                    "A clip of some seconds needs the frame rate of the video, which it does not tell."
                )
            span = self.clip_duration_sec * metadata.fps
        # Torch's generator is the one that workers and Trainer seed.
        generator = np.random.default_rng(torch.randint(2**63 - 1, ()).item())
        return sample_clip(metadata.total_num_frames, self.num_frames, span, generator)


def collate_videos(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """
    Puts examples of [`ClipTransform`] into a batch; videos of unequal length are padded, with an `attention_mask`.

    Args:
        examples (`list[dict]`): Each with `pixel_values` (frames, channels, height, width), `position_ids` (frames,)
            and `labels`.

    Returns:
        `dict`: The arguments of [`VTNForVideoClassification`].
    """
    batch = {"labels": torch.as_tensor(np.array([example["labels"] for example in examples]))}
    lengths = [len(example["position_ids"]) for example in examples]
    for name in ("pixel_values", "position_ids"):
        batch[name] = nn.utils.rnn.pad_sequence([example[name] for example in examples], batch_first=True)
    if len(set(lengths)) > 1:
        batch["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return batch
